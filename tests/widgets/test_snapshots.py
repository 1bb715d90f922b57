"""The bench of snapshots, driven as its sliders and buttons drive it."""

import os

import ipywidgets
import pytest

from atheria_lab.widgets import SnapshotBench

PNG = b"\x89PNG"


@pytest.fixture
def bench():
    bench = SnapshotBench(16, d_state=2, steps=40, every=2)
    yield bench
    bench.close()


def test_a_run_shows_bytes_and_states_and_goes_on_from_any(bench):
    bench.limit.value, bench.budget.value = 10, bench.budget.options[1][1]
    bench.keep.value = "even"
    bench.run.click()
    assert bench.wait(60)
    assert "10 snapshots kept, steps 2 to 40" in bench.status.value
    assert bytes(bench.bytes.value).startswith(PNG) and bytes(bench.psi.value).startswith(PNG)
    assert max(size.host for _, size in bench.curve) == bench.budget.value
    assert [step for _, step in bench.scrubber.options] == bench.store.steps

    before = bytes(bench.psi.value)
    bench.scrubber.value = 2
    assert bench.wait(60)
    assert bytes(bench.psi.value) != before
    bench.resume.click()
    assert bench.wait(60)
    assert "from step 2 to step 42" in bench.status.value
    assert not bench.run.disabled and bench.stop.disabled


def test_stop_ends_a_run(bench):
    bench._steps = 10**6
    bench.run.click()
    while bench.stop.disabled or not bench.curve:
        pass
    bench.stop.click()
    assert bench.wait(60)
    assert len(bench.curve) < 10**5 and "kept" in bench.status.value


def test_closing_frees_widgets_engine_and_files():
    before = set(ipywidgets.widgets.widget._instances)
    bench = SnapshotBench(8, d_state=2, steps=10, every=2)
    bench.run.click()
    assert bench.wait(60)
    folder, store = bench._folder.name, bench.store
    bench.close()
    bench.close()
    assert store.closed and bench._engine.closed and not os.path.exists(folder)
    assert set(ipywidgets.widgets.widget._instances) == before
