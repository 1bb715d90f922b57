"""Workbench: the whole bench in a cell."""

from __future__ import annotations

import html
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ui
import numpy as np
from torch import Tensor

from atheria_lab._checks import one_of
from atheria_lab.eventlog import EventLog
from atheria_lab.memory import format_size
from atheria_lab.snapshots import Snapshot
from atheria_lab.training import Trajectory
from atheria_lab.widgets import event_log
from atheria_lab.widgets.curves import Curves, Line
from atheria_lab.widgets.history_strip import HistoryStrip
from atheria_lab.widgets.lattice_view import LatticeView, Stroke
from atheria_lab.widgets.memory_curves import MemoryCurves
from atheria_lab.widgets.parts import close_all
from atheria_lab.widgets.plan_explorer import take
from atheria_lab.widgets.plan_picture import picture
from atheria_lab.widgets.snapshot_browser import SnapshotBrowser
from atheria_lab.widgets.ticker import Ticker
from atheria_lab.widgets.workbench.control import Stopped
from atheria_lab.widgets.workbench.costs import Estimator
from atheria_lab.widgets.workbench.form import LAW_FIELDS, LIMIT_FIELDS, TRAINING_FIELDS, Form
from atheria_lab.widgets.workbench.run_bar import ACTIONS, RunBar
from atheria_lab.widgets.workbench.session import Session
from atheria_lab.widgets.workbench.settings import LAWS, MakeLaw, Settings
from atheria_lab.widgets.worker import Worker

log = logging.getLogger(__name__)

# The bench that is open in this kernel: running its cell again replaces it.
_open: weakref.ref[Workbench] | None = None


class Workbench(ui.VBox):
    """Explore a law: run it, train it within a budget, and see where every byte goes.

    ::

        al.widgets.Workbench()

    Left, the law and its lattice; in the middle the limits, and what each costs before anything
    runs; right, psi, live. Below: the states that training kept, the memory, the snapshots, the
    loss and the observables, and what happened. Every part is a widget of its own, too.

    A change of a setting counts from the next step of a run, and from the next episode of a
    training; only what it touches is made anew. Space pauses, the right arrow makes a step, the
    left one shows the snapshot before, escape stops.

    One thread works, one draws; callbacks only post to them. An error shows in the log, and the
    bench goes on. A kernel has one bench: making another closes the former one.

    Args:
        laws: more laws to choose from, by name: functions of (d_state, hidden) that return a
            ``torch.nn.Module``. The first one is chosen.
        settings: values to begin with, by name, see
            :class:`~atheria_lab.widgets.workbench.settings.Settings`.

    Raises:
        TypeError: an unknown setting.
        ValueError: a value that its control does not take.
    """

    def __init__(self, laws: Mapping[str, MakeLaw] | None = None, **settings: Any) -> None:
        makers = {**(laws or {}), **LAWS}
        if laws:
            settings.setdefault("law", next(iter(laws)))
        begin = Settings(**settings)
        if begin.law not in makers:
            raise ValueError(f"law: got {begin.law!r}; it takes one of {', '.join(makers)}.")
        _replace_open(self)
        self.events = EventLog(begin.entries)
        self.session = Session(begin, makers, self.events, self._show_state, self._show_kept)
        self._estimator = Estimator(makers)
        self._least = 0
        self._kept: dict[int, Tensor] = {}
        self._runner = Worker(self._failed)
        self._painter = Worker(self._failed)

        self.form = Form(begin, makers, self._changed)
        self.bar = RunBar(self.do)
        self.view = LatticeView(on_draw=self._draw, per_second=60)
        self.strip = HistoryStrip(on_pick=self._pick)
        self.memory = MemoryCurves(extra=lambda: self.session.expected, height=170)
        self.loss = Curves("loss", x_label="episodes", height=170)
        self.observed = Curves("observables", x_label="steps", height=170)
        self.log_view = event_log.EventLog(self.events)
        self.plan = ui.HTML()
        self.costs = ui.HTML()
        self.least = ui.Button(button_style="warning", layout=_hidden())
        self.session.sync()
        assert self.session.store is not None
        self.snapshots = SnapshotBrowser(self.session.store, on_restore=self._go_back)
        self.snapshots.view.add_class("atheria-compact")
        self.session.on_store = self.snapshots.follow
        super().__init__(self._rows())
        self.add_class("atheria-workbench")
        self.least.on_click(lambda _: self._painter.post("least", self._take_least))
        self.bar.observe(self._speed, names="speed")
        self._ticker = Ticker(self, lambda bench: bench._refresh(), 0.25)
        self._runner.post("look", self.session.look)
        self._painter.post("plan", self._replan)

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing runs and all is drawn; ``False`` if that took longer than ``timeout``."""
        return self._runner.wait(timeout) and self._painter.wait(timeout)

    def close(self) -> None:
        """Stop, and free everything: threads, tensors, files and every widget."""
        if not hasattr(self, "_ticker"):  # refused before it was built, or closed before
            return
        self._ticker.close()
        self.session.control.stop()
        self._runner.close()
        self._painter.close()
        self.session.close()
        self._kept.clear()
        del self._ticker
        close_all(self)
        super().close()

    # What people do: these run on the thread that receives messages, and only post.

    def do(self, action: str) -> None:
        """What a button does; returns at once.

        Args:
            action: "train", "run", "step", "back", "pause" (once more to go on), "stop", "reset".

        Raises:
            ValueError: another action.
        """
        one_of("action", action, ACTIONS)
        control = self.session.control
        if action in ("train", "run"):
            self._begin(action)
        elif action == "step":
            if self.bar.doing == "run":
                self.session.one_more()
            elif self.bar.doing == "idle":
                self._runner.post("step", self.session.step)
        elif action == "back":
            self.snapshots.place.value = max(0, self.snapshots.place.value - 1)
        elif action == "pause" and self.bar.doing != "idle":
            self.bar.paused = not control.paused
            (control.pause if self.bar.paused else control.resume)()
        elif action == "stop":
            control.stop()
        elif action == "reset":
            control.stop()
            self._runner.post("reset", self.session.reset)

    def _begin(self, what: str) -> None:
        if self.bar.doing != "idle":
            self.events.add(f"{self.bar.doing} goes on already: stop it first", "warning")
            return
        self.bar.doing = what
        self.session.control.begin()
        work = self.session.train if what == "train" else self.session.run
        self._runner.post("work", lambda: self._work(what, work))

    def _changed(self, settings: Settings) -> None:
        unitary = settings.law == "Brickwork"
        self.form["norm"].disabled = self.form["gamma"].disabled = unitary
        self.form["hidden"].disabled = unitary
        self.session.wanted = settings
        if self.bar.doing == "idle":
            self._runner.post("look", self.session.look)
        self._painter.post("plan", self._replan)

    def _speed(self, change: Any) -> None:
        self.session.speed = change["new"]

    def _draw(self, stroke: Stroke) -> None:
        if self.bar.doing == "train":
            self.events.add("training makes its own states: draw on a run", "warning")
            return
        self.session.draw(stroke)
        if self.bar.doing == "idle":
            self._runner.post("look", self.session.look)

    def _pick(self, index: int) -> None:
        self._painter.post("pick", lambda: self._show_picked(index))

    def _go_back(self, snapshot: Snapshot) -> None:
        if self.bar.doing != "idle" and not self.bar.paused:
            self.events.add(f"stop or pause the {self.bar.doing} to go back", "warning")
            return
        if self.bar.doing != "idle":
            self.session.control.stop()
        self._runner.post("back", lambda: self.session.go_back(snapshot))

    # What the threads do.

    def _work(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            self.events.add(f"{what} stopped after {self.session.steps_made:,} steps")
        finally:
            self.bar.doing, self.bar.paused = "idle", False
            self.session.expected = {}

    def _show_state(self, psi: Tensor, step: int) -> None:
        # A copy, since a run steps psi in place, and made only where a picture is due.
        if self.view.stream.due:
            self.view.show(psi[:1].clone(), step)

    def _show_kept(self, kept: Trajectory) -> None:
        self._kept = {
            index: state[:1].clone() for index, state in zip(kept.indices, kept, strict=True)
        }
        self.strip.show(kept.states, kept.indices, self.session.wanted.steps)

    def _show_picked(self, index: int) -> None:
        psi = self._kept.get(index)
        if psi is not None:
            self.view.show(psi, index, last=True)

    def _replan(self) -> None:
        settings = self.session.wanted
        if not self._estimator.knows(settings):
            if not self.session.drawing.acquire(blocking=False):
                self._say("measured once this episode is over …")
                self.session.drawing.acquire()
            try:
                costs = self._estimator.costs(settings)
            finally:
                self.session.drawing.release()
        costs = self._estimator.costs(settings)
        self._say(costs.said, warn=costs.least is not None, table=costs.table())
        self.plan.value = picture(costs.plan, settings.budget)
        self._least = costs.least or 0
        self.least.layout.display = "none" if costs.least is None else ""
        if costs.least is not None:
            self.least.description = f"Take {format_size(costs.least)}"

    def _take_least(self) -> None:
        take(self.form["budget"], self._least)

    def _refresh(self) -> None:
        session = self.session
        if len(session.loss):
            self.loss.show({"loss": Line(*session.loss.buckets()[:4])}, last=True)
        lines = {
            name.replace("_", " "): Line(*series.buckets()[:4])
            for name, series in session.observed.items()
            if len(series) and not np.isnan(series.last)
        }
        if lines:
            self.observed.show(lines, last=True)
        doing = "paused" if self.bar.paused else {"run": "running", "train": "training"}.get(
            self.bar.doing, "ready"
        )  # fmt: skip
        said = f"{doing} · {session.steps_made:,} steps made · {session.episodes:,} episodes"
        if session.loss.count:
            said += f" · loss {session.loss.last:.4g}"
        if said != self.bar.status:
            self.bar.status = said

    def _failed(self, error: Exception) -> None:
        self.events.add(f"{type(error).__name__}: {error}", "error")

    def _say(self, text: str, *, warn: bool = False, table: str = "") -> None:
        colour = "var(--jp-error-color1,#d9534f)" if warn else "inherit"
        self.costs.value = (
            f'<div style="line-height:1.4;font-size:12px;color:{colour};max-width:300px">'
            f"{html.escape(text)}</div>{table}"
        )

    # How it looks.

    def _rows(self) -> list[ui.Widget]:
        law = _card(
            "law and lattice",
            [*self.form.some(LAW_FIELDS), _title("training and snapshots"),
             *self.form.some(TRAINING_FIELDS)],
            "0 0 300px",
        )  # fmt: skip
        limits = _card(
            "limits, and what they cost",
            [*self.form.some(LIMIT_FIELDS), self.costs, self.least, self.plan],
            "1 1 300px",
        )
        psi = _card("psi", [self.view], "1 1 340px")
        return [
            self.bar,
            _row([law, limits, psi]),
            _card("what a training rollout keeps", [self.strip], "1 1 auto"),
            _row([_card("", [self.memory], "1 1 420px"), _card("", [self.loss], "1 1 420px")]),
            _row([
                _card("", [self.snapshots], "1 1 420px"),
                _card("", [self.observed, self.log_view], "1 1 420px"),
            ]),
        ]  # fmt: skip


def _row(cards: list[ui.Widget]) -> ui.Widget:
    return ui.HBox(cards, layout=ui.Layout(flex_flow="row wrap", grid_gap="8px", width="100%"))


def _card(title: str, parts: list[ui.Widget], flex: str) -> ui.Widget:
    head = [_title(title)] if title else []
    card = ui.VBox([*head, *parts], layout=ui.Layout(flex=flex, min_width="0"))
    card.add_class("atheria-card")
    return card


def _title(text: str) -> ui.HTML:
    return ui.HTML(f'<div class="atheria-title">{html.escape(text)}</div>')


def _hidden() -> ui.Layout:
    return ui.Layout(display="none", width="auto")


def _replace_open(bench: Workbench) -> None:
    global _open
    former = _open() if _open is not None else None
    if former is not None:
        former.close()
    _open = weakref.ref(bench)
