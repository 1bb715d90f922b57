"""The view of a sweep: filled, turned, and bounded."""

import gc

import ipywidgets
import pytest

from atheria_lab.scale import SweepResult, SweepResults, points
from atheria_lab.widgets import SweepView
from atheria_lab.widgets.sweep_picture import sweep_figure

SPACE = {"law": [{"law": "MLP", "d_state": 2, "hidden": n} for n in (3, 4)], "size": 8,
         "steps": 6, "gamma": [0.0, 0.1, 0.5], "episodes": 3}  # fmt: skip


def put(results, place, loss):
    point = results.points[place]
    results.put(place, SweepResult(
        point.given, point.fingerprint, losses=(loss + 2, loss + 1, loss), plan="StoreAll()"
    ))  # fmt: skip


@pytest.fixture
def results():
    results = SweepResults(points(SPACE))
    put(results, 0, 1.0)
    return results


@pytest.fixture
def view(results):
    view = SweepView(results, "http://127.0.0.1:1/status", per_second=100)
    yield view
    view.close()


def test_it_fills_up_as_results_come(view, results):
    assert view.progress.value == 1 and view.progress.max == 6
    assert "http://127.0.0.1:1/status" in view.status.value
    seen = {view.picture.value}
    for place in range(1, 6):
        put(results, place, float(place))
        view.refresh()
        assert view.wait(10)
        assert view.progress.value == place + 1
        assert view.table.value.count("<tr") == place + 2
        seen.add(view.picture.value)
    assert len(seen) == 6
    view.finish()
    assert "127.0.0.1" not in view.status.value


def test_its_axis_its_colours_and_its_episode_can_be_turned(view, results):
    assert (view.x.value, view.colour.value, view.episode.value) == ("law", "gamma", 2)
    for place in range(1, 6):
        put(results, place, float(place))
    seen = set()
    for control, value in ((view.x, "gamma"), (view.colour, "law"), (view.episode, 0)):
        control.value = value
        assert view.wait(10)
        seen.add(view.picture.value)
    assert len(seen) == 3


def test_the_figure_has_the_losses_over_the_setting(results):
    for place in range(1, 6):
        put(results, place, float(place))
    (axes,) = sweep_figure(results, "gamma", "law").axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[0.0, 0.1, 0.5]] * 2
    assert [list(line.get_ydata()) for line in dots] == [[1.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    (axes,) = sweep_figure(results, "gamma", "law", episode=0).axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert list(dots[1].get_ydata()) == [5.0, 6.0, 7.0]


def test_points_that_do_not_differ_and_failures_can_be_shown():
    results = SweepResults(points({**SPACE, "law": SPACE["law"][0], "gamma": 0.1}))
    view = SweepView(results)
    results.put(0, SweepResult(results.points[0].given, "x", error="RuntimeError: <gone>"))
    view.finish()
    assert "1 of 1, 1 failed" in view.status.value
    assert "&lt;gone&gt;" in view.table.value
    view.close()


def test_closing_it_frees_everything(results):
    before = set(ipywidgets.widgets.widget._instances)
    view = SweepView(results)
    view.close()
    view.close()
    gc.collect()
    assert set(ipywidgets.widgets.widget._instances) == before
