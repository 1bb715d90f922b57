"""The quickstart's bench, driven as its sliders and buttons drive it."""

import threading

import ipywidgets
import pytest

from atheria_lab.widgets import Quickstart
from atheria_lab.widgets.worker import Worker

PNG = b"\x89PNG"


@pytest.fixture
def bench():
    bench = Quickstart(size=16, steps=25, keep=3, budget=2**20, d_state=2, hidden=4, episodes=2)
    assert bench.wait(60)
    yield bench
    bench.close()


def test_it_opens_with_a_plan_and_predicted_bars(bench):
    assert "fits" in bench.status.value
    assert "StoreAll()" in bench.plan.value
    assert bytes(bench.bars.value).startswith(PNG)
    assert [row.measured_bytes for row in bench.rows] == [None, None, None]
    assert bench.rows[2].predicted_bytes <= bench.budget.value


def test_every_slider_changes_the_plan(bench):
    for slider, value in ((bench.size, 32), (bench.steps, 100), (bench.keep, 7)):
        before = bench.rows
        slider.value = value
        assert bench.wait(60)
        assert bench.rows != before
    bench.budget.value = 2**22
    assert bench.wait(60)
    assert bench.rows[2].predicted_bytes <= 2**22


def test_training_measures_what_was_predicted_and_shows_psi(bench):
    bench.train.click()
    assert bench.wait(120)
    assert "done" in bench.status.value
    assert len(bench.reports) == 2
    for row in bench.rows:
        assert row.measured_bytes == pytest.approx(row.predicted_bytes, rel=0.05)
    assert bytes(bench.psi.value).startswith(PNG)


def test_a_budget_that_is_too_small_says_the_least_and_the_bench_goes_on(bench):
    bench.size.value = 256
    assert bench.wait(60)
    assert "least" in bench.status.value
    assert bench.train.disabled
    bench.size.value = 16
    assert bench.wait(60)
    assert not bench.train.disabled


def test_stop_ends_the_training(bench):
    bench.train.click()
    bench.stop.click()
    assert bench.wait(60)
    assert not bench.train.disabled


def test_closing_frees_every_widget():
    before = set(ipywidgets.widgets.widget._instances)
    bench = Quickstart(size=16, steps=25, keep=3, budget=2**20, d_state=2, hidden=4)
    bench.close()
    bench.close()
    assert set(ipywidgets.widgets.widget._instances) == before


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="size"):
        Quickstart(size=17)


def test_a_worker_goes_on_after_an_error_and_the_newest_job_of_a_name_wins():
    errors, done, gate = [], [], threading.Event()
    worker = Worker(errors.append)
    worker.post("hold", gate.wait)
    for value in range(10):
        worker.post("slider", lambda value=value: done.append(value))
    worker.post("fault", lambda: 1 / 0)
    gate.set()
    assert worker.wait(10)
    worker.close()
    assert done == [9]
    assert [type(error) for error in errors] == [ZeroDivisionError]
