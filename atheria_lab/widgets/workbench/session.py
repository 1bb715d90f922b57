"""What a workbench runs: a law, a lattice, a trainer, snapshots, and what was measured of them."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from atheria_lab import observables
from atheria_lab.bench import Bench
from atheria_lab.eventlog import EventLog
from atheria_lab.memory import format_seconds, format_size
from atheria_lab.memory.process import heap_in_use
from atheria_lab.memory.track import unfollowed
from atheria_lab.series import Series
from atheria_lab.snapshots import Snapshot, SnapshotStore
from atheria_lab.step import LatticeState
from atheria_lab.training import EpisodeReport, Trainer, Trajectory
from atheria_lab.widgets.lattice_view import Stroke
from atheria_lab.widgets.workbench.control import Control
from atheria_lab.widgets.workbench.settings import (
    LATTICE,
    LAW,
    MOTION,
    TRAINING,
    MakeLaw,
    Settings,
)
from atheria_lab.widgets.workbench.strokes import brush

OBSERVED = ("active_fraction", "participation_ratio", "spatial_entropy", "channel_entropy")
_SECONDS_BETWEEN_OBSERVATIONS = 0.5
_SECONDS_OF_A_FRAME = 1 / 60


class Session:
    """The work itself; all methods but :meth:`draw` run on one thread, the bench's.

    It follows ``wanted``: between two steps of a run, and between two episodes of a training, it
    makes anew what differs from it, and no more.

    Args:
        settings: to begin with.
        makers: of laws, by name.
        events: where it tells what happened.
        on_state: called with each state, its number and what is done ("run", "train").
        on_kept: called with the states that a training rollout kept.
    """

    def __init__(
        self,
        settings: Settings,
        makers: Mapping[str, MakeLaw],
        events: EventLog,
        on_state: Callable[[Tensor, int], None],
        on_kept: Callable[[Trajectory], None],
    ) -> None:
        self.wanted = settings
        self.control = Control()
        self.speed = 1
        self.events = events
        self.trainer: Trainer | None = None
        self.store: SnapshotStore | None = None
        self.on_store: Callable[[SnapshotStore], None] = lambda store: None
        self.loss = Series(1000, name="loss")
        self.observed = {name: Series(1000, name=name) for name in OBSERVED}
        self.expected: dict[str, float] = {}
        self.steps_made = self.episodes = 0
        # Held while random numbers are drawn from torch's global generator.
        self.drawing = threading.Lock()
        self._made: Settings | None = None
        self._makers = makers
        self._on_state, self._on_kept = on_state, on_kept
        self._bench = Bench()
        self._law: nn.Module | None = None
        self._final: Tensor | None = None
        self._strokes: deque[Stroke] = deque(maxlen=1000)
        self._single = 0
        self._since_snapshot = 0
        self._observe_at = 0.0
        self._generator = torch.Generator().manual_seed(0)
        self._folder = tempfile.TemporaryDirectory(prefix="atheria-lab-")
        self._stores = 0

    # What the buttons ask for.

    def run(self) -> None:
        """Step the lattice until somebody stops it."""
        while True:
            self.control.check(self._while_paused)
            start = time.monotonic()
            self.sync()
            self._paint()
            self._advance(self.speed)
            self._show()
            # A run that nobody can follow with the eyes is no use; speed makes more steps a frame.
            time.sleep(max(0.0, _SECONDS_OF_A_FRAME - (time.monotonic() - start)))

    def step(self) -> None:
        """Make as many steps as the speed says."""
        self.sync()
        self._paint()
        self._advance(self.speed)
        self._show()

    def train(self) -> None:
        """Train episode after episode until somebody stops it."""
        while True:
            self.control.check()
            self.sync()
            with self.drawing:
                self._episode()

    def look(self) -> None:
        """Show the state as the settings have it now."""
        self.sync()
        self._paint()
        self._show()

    def reset(self) -> None:
        """Everything from the beginning: law, lattice, trainer, snapshots, curves."""
        self._made = None
        for series in (self.loss, *self.observed.values()):
            series.clear()
        self.steps_made = self.episodes = 0
        self.look()
        self.events.add(f"reset: {self._about()}")

    def go_back(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot; from its psi alone if the law has learned since."""
        engine = self._bench.engine
        try:
            snapshot.restore(engine)
            self.events.add(f"back to step {snapshot.step:,}")
        except ValueError as error:
            if tuple(snapshot.psi.shape) != tuple(engine.psi.shape):
                raise
            engine.restart(snapshot.psi)
            self.events.add(f"back to the psi of step {snapshot.step:,}: {error}", "warning")
        self._show()

    def draw(self, stroke: Stroke) -> None:
        """Have psi changed before the next step; from any thread."""
        self._strokes.append(stroke)
        self.control.nudge()

    def one_more(self) -> None:
        """Have a paused run make one step more; from any thread."""
        self._single += 1
        self.control.nudge()

    def close(self) -> None:
        """Free everything; the work has ended."""
        self._bench.close()
        self.trainer = self._law = self._final = None
        if self.store is not None:
            self.store.close()
        self._folder.cleanup()

    # How it is done.

    def sync(self) -> None:
        """Make anew what the settings changed.

        If that fails, nothing is there, and the next call tries again.
        """
        wanted, had = self.wanted, self._made
        if wanted == had:
            return
        self._made = None
        if wanted.differs(had, TRAINING):
            self.trainer = None
        if wanted.differs(had, LAW):
            self._bench.close()
            self._law = None
            self._law = wanted.make_law(self._makers)
        assert self._law is not None
        if wanted.differs(had, LATTICE):
            self._bench.load(self._law, wanted.make_psi, **wanted.motion(self._law))
            self._renew_store(wanted)
        elif wanted.differs(had, MOTION):
            psi = self._bench.engine.psi.clone()
            self._bench.load(self._law, psi, **wanted.motion(self._law))
        assert self.store is not None
        self.store.limit, self.store.host_budget = wanted.limit, wanted.host_budget
        self.events.resize(wanted.entries)
        self._made = wanted

    def _episode(self) -> None:
        made = self._made
        assert made is not None and self._law is not None
        if self.trainer is None:
            self.trainer = made.make_trainer(self._law, made.budget)
            self.trainer.episode = self.episodes
            plan = self.trainer.planned.ready(self.episodes)
            self.events.add(f"{plan!r}: {format_size(self.trainer.predicted_bytes)} predicted")
        base = heap_in_use()
        if base is not None:
            self.expected = {
                "plan predicts": base + self.trainer.predicted_bytes,
                "budget": base + made.budget,
            }
        self._told(self.trainer.train_episode(self._kept, self._on_step))

    def _on_step(self, state: Any, done: int) -> None:
        """Every state that a training makes comes through here."""
        self.control.check()
        self.steps_made += 1
        if state is None:
            return
        psi = state.psi if isinstance(state, LatticeState) else state
        with unfollowed():
            self._on_state(psi, done)
            self._observe(psi)

    def _kept(self, trajectory: Trajectory) -> None:
        with unfollowed():
            self._on_kept(trajectory)
            self._final = trajectory[-1].clone()

    def _told(self, report: EpisodeReport) -> None:
        self.episodes = report.episode + 1
        self.loss.add(report.episode, report.loss)
        peak = "" if report.peak_bytes is None else f", peak {format_size(report.peak_bytes)}"
        self.events.add(
            f"episode {report.episode}: loss {report.loss:.4g}, "
            f"{format_seconds(report.seconds)}{peak}" + (", skipped" if report.skipped else ""),
            "warning" if report.skipped else "info",
        )
        engine = self._bench.engine
        if self._final is not None:
            engine.restart(self._final)
            engine.restore(engine.state()._replace(steps_done=self.steps_made))
            self._final = None
            self._snapshot()

    def _advance(self, count: int) -> None:
        engine = self._bench.engine
        engine.step(count)
        self.steps_made += count
        self._since_snapshot += count
        assert self._made is not None
        if self._since_snapshot >= self._made.every:
            self._since_snapshot = 0
            self._snapshot()
        self._observe(engine.psi)

    def _while_paused(self) -> None:
        self._paint()
        while self._single:
            self._single -= 1
            self._advance(1)
        self._show()

    def _paint(self) -> None:
        while self._strokes:
            stroke = self._strokes.popleft()
            cells = brush(self._bench.engine.psi, stroke, self._generator)
            self.events.add(f"{stroke.tool}: {cells} cells", "debug")

    def _show(self) -> None:
        self._on_state(self._bench.engine.psi, self._bench.engine.steps_done)

    def _snapshot(self) -> None:
        if self.store is not None:
            self.store.add(self._bench.engine)

    def _observe(self, psi: Tensor) -> None:
        now = time.monotonic()
        if now < self._observe_at:
            return
        for name, value in observables.summary(psi).items():
            if name in self.observed:
                self.observed[name].add(self.steps_made, value)
        self._observe_at = time.monotonic() + _SECONDS_BETWEEN_OBSERVATIONS

    def _renew_store(self, settings: Settings) -> None:
        if self.store is not None:
            self.store.close()
        self._stores += 1
        folder = Path(self._folder.name) / str(self._stores)
        self.store = SnapshotStore(
            settings.limit, settings.host_budget, folder, keep="even", sync="process"
        )
        self.on_store(self.store)

    def _about(self) -> str:
        made = self.wanted
        return f"{made.law} on {made.size}x{made.size}, d_state {made.d_state}"
