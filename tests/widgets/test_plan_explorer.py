"""PlanExplorer and SnapshotBrowser, driven as their sliders and buttons drive them."""

import gc

import ipywidgets
import pytest
import torch

import atheria_lab as al
from atheria_lab.widgets import PlanExplorer, SnapshotBrowser


def decay(state, i):
    """A step that is no law of ours."""
    return {"x": torch.tanh(state["x"] * 0.9)}


@pytest.fixture
def explorer():
    explorer = PlanExplorer(decay, {"x": torch.zeros(1000)}, budget="1 MiB")
    assert explorer.wait(30)
    yield explorer
    explorer.close()


def test_every_slider_changes_the_plan_and_nothing_runs(explorer):
    seen = {explorer.table.value}
    for slider in (explorer.steps, explorer.keep, explorer.budget):
        slider.value = slider.options[3][1]
        assert explorer.wait(30)
        seen.add(explorer.table.value)
    assert len(seen) == 4
    assert "Binomial" in explorer.picture.value


def test_a_budget_that_is_too_small_offers_the_least_that_is_enough(explorer):
    explorer.steps.value = 12800
    explorer.budget.value = explorer.budget.options[0][1]
    explorer.keep.value = 100
    assert explorer.wait(30)
    assert "No exact plan fits 256.0 KiB" in explorer.status.value
    explorer.least.click()
    assert explorer.wait(30)
    assert "No exact plan" not in explorer.status.value
    assert explorer.plan.chosen.needs_bytes <= explorer.budget.value


def test_a_plan_of_the_explorer_is_that_of_plan_rollout(explorer):
    planned = al.plan_rollout(decay, {"x": torch.zeros(1000)}, 400, "1 MiB", al.SaveAt.at_most(10))
    assert explorer.plan.predicted_bytes == planned.predicted_bytes


@pytest.fixture
def store():
    with al.SnapshotStore(limit=4) as store:
        yield store


def engine():
    return al.Engine(al.laws.Conv(2, 4), al.lattice.random(8, 2))


def test_the_browser_follows_a_store_and_goes_back(store):
    restored = []
    browser = SnapshotBrowser(store, on_restore=restored.append, per_second=100)
    with engine() as running:
        for _ in range(6):
            running.step(10)
            store.add(running)
            browser.refresh()
    assert browser.place.max == 3 and browser.place.value == 3
    browser.place.value = 1
    assert browser.wait(10)
    assert "step 40 of 4 kept" in browser.status.value
    browser.back.click()
    assert browser.wait(10)
    assert [snapshot.step for snapshot in restored] == [40]
    store.close()
    browser.refresh()
    browser.close()


def test_closing_frees_everything(store):
    before = set(ipywidgets.widgets.widget._instances)
    for widget in (SnapshotBrowser(store), PlanExplorer(decay, {"x": torch.zeros(10)})):
        widget.close()
        widget.close()
    gc.collect()
    assert set(ipywidgets.widgets.widget._instances) == before
    assert not store.closed
