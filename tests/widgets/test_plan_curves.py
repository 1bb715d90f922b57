"""The same training under five plans, driven as its slider drives it."""

import ipywidgets
import pytest

from atheria_lab.widgets import PlanCurves


@pytest.fixture
def bench():
    bench = PlanCurves(8, 24, d_state=2, hidden=3)
    assert bench.wait(120)
    yield bench
    bench.close()


def test_five_plans_are_measured_as_predicted(bench):
    assert [timeline.plan for timeline in bench.timelines] == list(bench.plans)
    assert len(set(bench.plans)) == 5
    for timeline in bench.timelines:
        assert timeline.peak_bytes == pytest.approx(timeline.predicted_bytes, rel=0.05)
    assert bytes(bench.picture.value).startswith(b"\x89PNG")


def test_the_budget_chooses_a_plan_and_the_picture_follows(bench):
    for place in (0, 20, 40):
        before = bytes(bench.picture.value)
        bench.budget.index = place
        assert bench.wait(60)
        assert bytes(bench.picture.value) != before
        assert bench.chosen.predicted_bytes <= bench.budget.value
        assert repr(bench.chosen.plan) in bench.status.value


def test_closing_frees_every_widget():
    before = set(ipywidgets.widgets.widget._instances)
    bench = PlanCurves(8, 12, d_state=2, hidden=3)
    bench.close()
    bench.close()
    assert set(ipywidgets.widgets.widget._instances) == before
