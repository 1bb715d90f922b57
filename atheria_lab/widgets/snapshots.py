"""A bench for snapshots: two budgets, a run, where its bytes go, and the way back."""

from __future__ import annotations

import html
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as ui
import torch
from matplotlib.figure import Figure

from atheria_lab import lattice
from atheria_lab.engine import Engine
from atheria_lab.laws import Conv
from atheria_lab.memory import format_size
from atheria_lab.snapshots import SnapshotStore, TierBytes
from atheria_lab.widgets import pictures
from atheria_lab.widgets.parts import choice, close_all
from atheria_lab.widgets.worker import Worker

_INK = "#808890"
_COLOURS = {"device": "#d98c4a", "host": "#2f6db3", "disk": "#9db8d9"}
_LIMITS = (5, 10, 20, 50, 100)
_BUDGETS = (2, 4, 8, 16, 32)  # states of the lattice


class SnapshotBench(ui.VBox):
    """Run an engine with a store of snapshots, go back to any of them, and go on from there.

    The files are in a temporary directory, which goes with the bench.

    Args:
        size: cells along each side.
        d_state: complex amplitudes in a cell.
        steps: of a run.
        every: steps between two snapshots.
    """

    def __init__(
        self, size: int = 64, *, d_state: int = 4, steps: int = 600, every: int = 10
    ) -> None:
        self._every, self._steps = every, steps
        self._state_bytes = lattice.zeros(size, d_state).nbytes
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            law = Conv(d_state, 16, activation="tanh")
        psi = lattice.gaussian(size, d_state, width=0.08, wave=(2, 3))
        self._engine = Engine(law, psi, gamma=0.02)
        self._begin = self._engine.state()
        self._folder = tempfile.TemporaryDirectory(prefix="atheria-lab-")
        self._store: SnapshotStore | None = None
        self._runs = 0
        self._stopping = threading.Event()
        self.curve: list[tuple[int, TierBytes]] = []

        self.limit = choice("limit", _LIMITS, 50, width="370px")
        budgets = [n * self._state_bytes for n in _BUDGETS]
        self.budget = choice("host budget", budgets, budgets[2], format_size, width="370px")
        self.keep = ui.ToggleButtons(
            options=["newest", "even"], description="keep", style={"description_width": "90px"}
        )
        self.run = ui.Button(description=f"Run {steps} steps", button_style="primary", icon="play",
                             tooltip="from the beginning, with a new store")  # fmt: skip
        self.stop = ui.Button(description="Stop", icon="stop", disabled=True)
        self.resume = ui.Button(description="Restore and continue", icon="undo", disabled=True,
                                tooltip="go back to the snapshot shown, then run on")  # fmt: skip
        self.scrubber = ui.SelectionSlider(
            options=[("-", 0)], description="snapshot", disabled=True,
            layout=_wide(), style={"description_width": "90px"},
        )  # fmt: skip
        self.status = ui.HTML("Press Run.")
        self.bytes = ui.Image(format="png", layout=ui.Layout(width="100%", max_width="640px"))
        self.psi = ui.Image(format="png", layout=ui.Layout(width="100%", max_width="520px"))
        self._worker = Worker(self._show_error)
        left = ui.VBox(
            [self.limit, self.budget, self.keep, ui.HBox([self.run, self.stop]), self.scrubber,
             self.resume, self.status],
            layout=ui.Layout(width="400px", flex="0 0 auto"),
        )  # fmt: skip
        right = ui.VBox([self.bytes, self.psi], layout=ui.Layout(flex="1 1 420px", min_width="0"))
        super().__init__([ui.HBox([left, right], layout=ui.Layout(flex_flow="row wrap"))])
        self.run.on_click(lambda _: self._post(self._start))
        self.resume.on_click(lambda _: self._post(self._go_back))
        self.stop.on_click(lambda _: self._stopping.set())
        self.scrubber.observe(lambda _: self._worker.post("look", self._look), names="value")

    @property
    def store(self) -> SnapshotStore | None:
        """The store of the last run, to look at from other cells."""
        return self._store

    def wait(self, timeout: float | None = None) -> bool:
        """Until all that was asked for is shown; ``False`` if that took longer than ``timeout``."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """End the run, close store and engine, remove the files, free every widget."""
        if not hasattr(self, "_worker"):
            return
        self._stopping.set()
        self._worker.close()
        if self._store is not None:
            self._store.close()
        self._engine.close()
        self._folder.cleanup()
        close_all(self)
        super().close()

    def _post(self, job: object) -> None:
        self._stopping.clear()
        self._worker.post("run", job)  # type: ignore[arg-type]  # a bound method of this class

    def _start(self) -> None:
        if self._store is not None:
            self._store.close()
        self._runs += 1
        self._engine.restore(self._begin)
        self.curve = []
        self._store = SnapshotStore(
            self.limit.value,
            self.budget.value,
            Path(self._folder.name) / str(self._runs),
            keep=self.keep.value,
            sync="process",
        )
        self._advance("from the beginning")

    def _go_back(self) -> None:
        if self._store is not None:
            snapshot = self._store.nearest(self.scrubber.value)
            snapshot.restore(self._engine)
            self._advance(f"from step {snapshot.step}")

    def _advance(self, whence: str) -> None:
        store = self._store
        assert store is not None
        self.run.disabled = self.resume.disabled = self.scrubber.disabled = True
        self.stop.disabled = False
        try:
            count = self._steps // self._every
            for i in range(count):
                if self._stopping.is_set():
                    break
                self._engine.step(self._every)
                store.add(self._engine)
                self.curve.append((len(self.curve) + 1, store.nbytes))
                if (i + 1) % max(1, count // 10) == 0:
                    self.bytes.value = pictures.png(tiers_figure(self.curve, store.host_budget))
                    self._say(f"step {self._engine.steps_done} …")
            store.flush()
            steps = sorted(set(store.steps))
            size = store.nbytes
            self._say(
                f"{whence} to step {self._engine.steps_done}: {len(store)} snapshots kept, steps "
                f"{steps[0]} to {steps[-1]}; {format_size(size.host)} in host memory, "
                f"{format_size(size.disk)} on disk."
            )
            self.scrubber.options = [(f"step {step}", step) for step in steps]
            self.scrubber.value = steps[-1]
            self._look()
        finally:
            self.run.disabled = self.resume.disabled = self.scrubber.disabled = False
            self.stop.disabled = True

    def _look(self) -> None:
        if self._store is not None and len(self._store):
            snapshot = self._store.nearest(self.scrubber.value)
            self.psi.value = pictures.png(pictures.psi_figure(snapshot.psi))

    def _show_error(self, error: Exception) -> None:
        self._say(f"{type(error).__name__}: {error}", warn=True)

    def _say(self, text: str, *, warn: bool = False) -> None:
        colour = "var(--jp-error-color1, #d9534f)" if warn else "var(--jp-ui-font-color1, #808890)"
        self.status.value = (
            f'<div style="color:{colour};line-height:1.4;max-width:380px">{html.escape(text)}</div>'
        )


def tiers_figure(curve: Sequence[tuple[int, TierBytes]], budget: int | None) -> Figure:
    """Bytes on device, host and disk, one above the other, by the number of states added."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    added = [0, *(count for count, _ in curve)]
    layers = {name: [0.0, *(getattr(size, name) / 2**20 for _, size in curve)] for name in _COLOURS}
    names = [name for name in layers if name != "device" or any(layers[name])]
    axes.stackplot(
        added, *(layers[name] for name in names), colors=[_COLOURS[name] for name in names]
    )
    bottom = 0.0
    for name in names:
        last = layers[name][-1]
        if last:
            axes.annotate(
                f"{name} {format_size(int(last * 2**20))}", (added[-1], bottom + last / 2),
                xytext=(6, 0), textcoords="offset points", va="center", fontsize=9,
                color=_COLOURS[name], annotation_clip=False,
            )  # fmt: skip
        bottom += last
    if budget is not None:
        axes.axhline(budget / 2**20, color="#d9534f", linewidth=1.2, linestyle=(0, (4, 2)))
        axes.annotate(
            "host budget", (0, budget / 2**20), xytext=(4, 3), textcoords="offset points",
            fontsize=9, color="#d9534f",
        )  # fmt: skip
    axes.set_xlim(0, max(added[-1], 1) * 1.22)
    axes.set_xlabel("states added", color=_INK, fontsize=9)
    axes.set_ylabel("MiB", color=_INK, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_edgecolor(_INK)
    return figure


def _wide() -> ui.Layout:
    return ui.Layout(width="370px")
