"""The bench: what its controls, buttons and pointer do, and what is left when it closes."""

import gc
import json
import subprocess
import sys
import time
import weakref
from pathlib import Path

import ipywidgets
import pytest
import torch
from torch import nn

from atheria_lab.memory.process import heap_in_use
from atheria_lab.widgets import Workbench
from atheria_lab.widgets.lattice_view import Stroke

SMALL = {"size": 8, "d_state": 2, "hidden": 4, "steps": 10, "keep": 2, "every": 1}


@pytest.fixture
def bench():
    bench = Workbench(**SMALL)
    assert bench.wait(30)
    yield bench
    bench.close()


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def said(bench):
    return " | ".join(entry.text for entry in bench.events)


def errors(bench):
    return [entry.text for entry in bench.events if entry.level == "error"]


def test_a_run_steps_until_stop_and_answers_at_once(bench):
    bench.do("run")
    until(lambda: bench.session.steps_made > 5)
    bench.do("stop")
    assert bench.wait(10)
    assert bench.bar.doing == "idle"
    made = bench.session.steps_made
    time.sleep(0.05)
    assert bench.session.steps_made == made == bench.session._bench.engine.steps_done
    assert f"run stopped after {made} steps" in said(bench)
    assert len(bench.session.store) > 0


def test_a_pause_stands_still_and_steps_one_by_one(bench):
    bench.do("run")
    until(lambda: bench.session.steps_made > 2)
    bench.do("pause")
    assert bench.bar.paused
    time.sleep(0.2)
    still = bench.session.steps_made
    time.sleep(0.1)
    assert bench.session.steps_made == still
    bench.do("step")
    until(lambda: bench.session.steps_made == still + 1)
    bench.do("pause")
    until(lambda: bench.session.steps_made > still + 3)
    bench.do("stop")
    assert bench.wait(10)


def test_one_step_makes_as_many_as_the_speed_says(bench):
    bench.do("step")
    assert bench.wait(10)
    assert bench.session.steps_made == 1
    bench.bar.speed = 7
    bench.do("step")
    assert bench.wait(10)
    assert bench.session.steps_made == 8


def test_training_fills_the_curves_the_strip_and_the_log(bench):
    bench.do("train")
    until(lambda: bench.session.episodes >= 3)
    bench.do("stop")
    assert bench.wait(30)
    assert errors(bench) == []
    assert bench.session.loss.count >= 3
    assert bench.session.loss.last == bench.session.loss.last  # not NaN
    assert len(bench._kept) == 2
    assert bench.session.expected == {}
    assert "episode 0: loss" in said(bench)
    # the run goes on from where the last episode ended
    assert bench.session._bench.engine.steps_done > 0


def test_training_can_be_stopped_within_an_episode():
    bench = Workbench(**SMALL | {"size": 64, "steps": 1600, "hidden": 16})
    try:
        assert bench.wait(60)
        bench.do("train")
        until(lambda: bench.session.steps_made > 20)
        bench.do("stop")
        assert bench.wait(10)
        assert bench.session.episodes == 0
        assert bench.session.steps_made < 1600
    finally:
        bench.close()


def test_started_twice_it_goes_on_once(bench):
    bench.do("run")
    bench.do("train")
    assert bench.bar.doing == "run"
    assert "run goes on already: stop it first" in said(bench)
    bench.do("stop")
    assert bench.wait(10)


@pytest.mark.parametrize("end", ["first", "last"])
@pytest.mark.parametrize(
    "name", ["gamma", "noise", "hidden", "d_state", "steps", "keep", "budget", "lr", "every",
             "limit", "host_budget", "entries"]
)  # fmt: skip
def test_sliders_at_both_ends(bench, name, end):
    control = bench.form[name]
    if hasattr(control, "options"):
        control.index = 0 if end == "first" else len(control.options) - 1
    else:
        control.value = control.min if end == "first" else control.max
    assert bench.wait(120)
    assert getattr(bench.session.wanted, name) == control.value
    bench.do("step")
    assert bench.wait(60)
    assert errors(bench) == []
    assert bench.session.steps_made == 1


def test_a_lattice_of_one_cell_runs_and_trains(bench):
    bench.form["size"].value = 1
    assert bench.wait(30)
    bench.do("step")
    bench.do("train")
    until(lambda: bench.session.episodes >= 1 or errors(bench))
    bench.do("stop")
    assert bench.wait(30)
    assert errors(bench) == []
    assert bench.session._bench.engine.psi.shape == (1, 1, 1, 2)


@pytest.mark.parametrize("law", ["Conv", "MLP", "UNet", "ConvLSTMUNet", "Brickwork"])
def test_every_law_runs_and_trains(bench, law):
    bench.form["law"].value = law
    assert bench.wait(60)
    bench.do("step")
    assert bench.wait(30)
    assert bench.form["gamma"].disabled == (law == "Brickwork")
    bench.do("train")
    until(lambda: bench.session.episodes >= 2 or errors(bench))
    bench.do("stop")
    assert bench.wait(30)
    assert errors(bench) == []


def test_a_budget_below_the_least_says_the_least_and_offers_it(bench):
    bench.form["size"].value = 64
    bench.form["budget"].value = 2**18
    assert bench.wait(60)
    assert bench.least.layout.display == ""
    assert bench.least.description.startswith("Take ")
    bench.do("train")
    until(lambda: errors(bench))
    assert bench.wait(30)
    assert "The smallest that would do" in errors(bench)[0]
    assert bench.bar.doing == "idle"
    bench.least.click()
    assert bench.wait(60)
    assert bench.form["budget"].value > 2**18
    assert bench.least.layout.display == "none"
    bench.do("train")
    until(lambda: bench.session.episodes >= 1)
    bench.do("stop")
    assert bench.wait(30)
    assert len(errors(bench)) == 1


def test_a_change_of_the_law_makes_only_that_anew(bench):
    bench.do("step")
    assert bench.wait(10)
    law, store = weakref.ref(bench.session._law), bench.session.store
    bench.form["budget"].value = 2**30
    assert bench.wait(30)
    assert bench.session._law is law()
    assert bench.session.store is store
    bench.form["hidden"].value = 16
    assert bench.wait(30)
    gc.collect()
    assert law() is None
    assert bench.session.store is not store


def test_a_law_that_raises_is_told_and_the_bench_goes_on():
    class Broken(nn.Module):
        radius = 1

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            raise RuntimeError("this law is broken")

    bench = Workbench({"broken": lambda d_state, hidden: Broken()}, **SMALL)
    try:
        assert bench.wait(30)
        assert bench.form["law"].value == "broken"
        for action in ("step", "train", "run"):
            bench.do(action)
            assert bench.wait(30)
            assert bench.bar.doing == "idle"
        assert all("this law is broken" in text for text in errors(bench))
        assert errors(bench)
        bench.form["law"].value = "MLP"
        assert bench.wait(30)
        bench.do("step")
        assert bench.wait(30)
        assert bench.session.steps_made == 1
    finally:
        bench.close()


def test_nan_is_told_and_does_not_end_the_bench():
    class Nan(nn.Module):
        radius = 0

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return x * self.weight * float("nan")

    bench = Workbench({"nan": lambda d_state, hidden: Nan()}, **SMALL)
    try:
        assert bench.wait(30)
        bench.do("step")
        bench.do("train")
        until(lambda: bench.session.episodes >= 2 or errors(bench))
        bench.do("stop")
        assert bench.wait(30)
        assert errors(bench) or "skipped" in said(bench)
        bench.form["law"].value = "MLP"
        bench.do("reset")
        bench.do("step")
        assert bench.wait(30)
        assert torch.isfinite(torch.view_as_real(bench.session._bench.engine.psi)).all()
    finally:
        bench.close()


def test_a_stroke_empties_the_cells_under_it_and_the_law_heals_them(bench):
    bench._draw(Stroke("damage", [(0, 0)], 1))
    assert bench.wait(10)
    density = bench.session._bench.engine.psi.abs().square().sum(-1)[0]
    assert density[0, 0] == density[7, 0] == density[0, 7] == density[1, 0] == 0
    assert density[1, 1] > 0
    bench._draw(Stroke("excite", [(4, 4)], 0))
    assert bench.wait(10)
    assert bench.session._bench.engine.psi[0, 4, 4].abs().sum() > 0


def test_go_back_restores_a_snapshot(bench):
    for _ in range(3):
        bench.do("step")
    assert bench.wait(10)
    store = bench.session.store
    store.flush()
    snapshot = next(iter(store))
    bench._go_back(snapshot)
    assert bench.wait(10)
    engine = bench.session._bench.engine
    assert engine.steps_done == snapshot.step
    assert torch.equal(engine.psi, snapshot.psi)


def test_reset_begins_anew(bench):
    for _ in range(3):
        bench.do("step")
    bench.do("reset")
    assert bench.wait(10)
    assert bench.session.steps_made == bench.session._bench.engine.steps_done == 0
    assert all(len(series) == 0 for series in bench.session.observed.values())


def test_limits_are_followed_while_a_run_goes_on(bench):
    bench.do("run")
    until(lambda: bench.session.steps_made > 40)
    bench.form["limit"].value = 5
    bench.form["entries"].value = 10
    until(lambda: bench.session.store.limit == 5 and len(bench.session.store) <= 5)
    bench.do("stop")
    assert bench.wait(10)
    assert bench.events.max_entries == 10


def test_close_leaves_no_widget_no_file_and_no_law():
    before = set(ipywidgets.widgets.widget._instances)
    bench = Workbench(**SMALL)
    assert bench.wait(30)
    bench.do("run")
    until(lambda: bench.session.steps_made > 3)
    law = weakref.ref(bench.session._law)
    folder = Path(bench.session._folder.name)
    assert folder.exists()
    bench.close()
    gc.collect()
    assert law() is None
    assert not folder.exists()
    assert set(ipywidgets.widgets.widget._instances) == before
    bench.close()  # twice is fine


def test_another_bench_replaces_the_one_before():
    first = Workbench(**SMALL)
    first.do("run")
    second = Workbench(**SMALL)
    try:
        assert first.comm is None
        assert second.wait(30)
        assert errors(second) == []
    finally:
        second.close()


def test_a_refused_setting_leaves_the_open_bench_alone(bench):
    with pytest.raises(TypeError):
        Workbench(sise=8)
    with pytest.raises(ValueError, match="law: got 'Nope'; it takes one of"):
        Workbench(law="Nope")
    bench.do("step")
    assert bench.wait(10)
    assert bench.session.steps_made == 1


def test_twenty_benches_leave_the_heap_flat():
    def make():
        bench = Workbench(**SMALL | {"size": 64})
        assert bench.wait(60)
        bench.do("step")
        assert bench.wait(30)
        bench.close()
        del bench
        gc.collect()

    for _ in range(3):
        make()
    tensors = _tensor_bytes()
    heap = heap_in_use()
    for _ in range(10):
        make()
    assert _tensor_bytes() == tensors
    if heap is not None:
        assert heap_in_use() - heap < 2 * 2**20


def _tensor_bytes():
    gc.collect()
    return sum(
        each.untyped_storage().nbytes() for each in gc.get_objects() if type(each) is torch.Tensor
    )


def test_an_unknown_action_is_refused_with_those_there_are(bench):
    with pytest.raises(ValueError, match="action: got 'fly'; it takes .*'train'"):
        bench.do("fly")


def test_a_saved_notebook_stays_small(bench):
    bench.do("train")
    until(lambda: bench.session.episodes >= 5)
    bench.do("stop")
    assert bench.wait(30)
    state = ipywidgets.Widget.get_manager_state()
    binary = sum(
        len(each["data"]) for one in state["state"].values() for each in one.get("buffers", ())
    )
    assert len(json.dumps(state, default=str)) + binary < 300_000


def test_importing_the_bench_draws_nothing_with_pyplot():
    code = (
        "import sys, atheria_lab as al; al.widgets.Workbench; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
