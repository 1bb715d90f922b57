"""SnapshotBrowser: where the snapshots are, how they look, and the way back."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as ui

from atheria_lab._checks import instance
from atheria_lab.memory import format_size
from atheria_lab.series import Series
from atheria_lab.snapshots import Snapshot, SnapshotStore
from atheria_lab.widgets.curves import Curves, Line
from atheria_lab.widgets.lattice_view import LatticeView
from atheria_lab.widgets.parts import close_all
from atheria_lab.widgets.ticker import Ticker
from atheria_lab.widgets.worker import Worker

_TIERS = ("device", "host", "disk")


class SnapshotBrowser(ui.VBox):
    """A store as it fills: its bytes by tier, and a slider over what can be gone back to.

    ::

        store = al.SnapshotStore(limit=100)
        display(al.widgets.SnapshotBrowser(store, on_restore=lambda snapshot: ...))

    It follows the store whoever adds to it; the store is not closed with it. A state is read, and
    shown, when the slider asks for it.

    Args:
        store: to follow.
        on_restore: called with the snapshot that is shown when the button is pressed, on a thread
            of the browser's own; by default there is no button.
        per_second: looks at the store.
    """

    def __init__(
        self,
        store: SnapshotStore,
        *,
        on_restore: Callable[[Snapshot], None] | None = None,
        per_second: float = 3.0,
    ) -> None:
        instance("store", store, SnapshotStore, "a SnapshotStore")
        self.store = store
        self.on_restore = on_restore
        self._series = {tier: Series(500, name=tier) for tier in _TIERS}
        self._seen: object = None
        self._moves = 0
        self.curves = Curves("snapshots", unit="bytes", x_label="states added", stacked=True,
                             height=150)  # fmt: skip
        self.place = ui.IntSlider(
            value=0, min=0, max=0, description="snapshot", readout=False, disabled=True,
            continuous_update=True, layout=ui.Layout(width="100%"),
            style={"description_width": "70px"},
        )  # fmt: skip
        self.status = ui.HTML("no snapshot yet")
        self.back = ui.Button(
            description="Go back to it", icon="undo", disabled=True,
            tooltip="go on from the snapshot shown",
            layout=ui.Layout(display="none" if on_restore is None else ""),
        )  # fmt: skip
        self.view = LatticeView(layout=ui.Layout(width="200px", flex="0 0 200px"))
        self._worker = Worker(lambda error: self._say(f"{type(error).__name__}: {error}"))
        below = ui.HBox(
            [ui.VBox([self.place, self.status, self.back], layout=ui.Layout(flex="1 1 260px")),
             self.view],
            layout=ui.Layout(flex_flow="row wrap"),
        )  # fmt: skip
        super().__init__([self.curves, below])
        self.place.observe(lambda _: self._worker.post("look", self._look), names="value")
        self.back.on_click(lambda _: self._worker.post("back", self._go_back))
        self._ticker = Ticker(self, lambda browser: browser.refresh(), 1 / per_second)

    def wait(self, timeout: float | None = None) -> bool:
        """Until all that was asked for is shown; ``False`` if that took longer than ``timeout``."""
        return self._worker.wait(timeout)

    def follow(self, store: SnapshotStore) -> None:
        """Follow another store from now on; the curves begin anew."""
        instance("store", store, SnapshotStore, "a SnapshotStore")
        self.store = store
        for series in self._series.values():
            series.clear()
        self._seen, self._moves = None, 0

    def refresh(self) -> None:
        """Look at the store now."""
        store = self.store
        if store.closed:
            return
        steps, size = store.steps, store.nbytes
        if (steps, size) == self._seen:
            return
        self._seen = (steps, size)
        self._moves += 1
        for tier, series in self._series.items():
            series.add(self._moves, getattr(size, tier))
        lines = {
            tier: Line(*series.buckets()[:4])
            for tier, series in self._series.items()
            if series.high.max() > 0 or tier == "host"
        }
        budget = store.host_budget
        self.curves.show(lines, {} if budget is None else {"host budget": budget}, last=True)
        self._slide(len(steps))

    def close(self) -> None:
        """End the work, and free every part; the store stays open."""
        if not hasattr(self, "_ticker"):
            return
        self._ticker.close()
        self._worker.close()
        close_all(self)
        super().close()

    def _slide(self, count: int) -> None:
        """The slider over so many snapshots; it stays at the newest if it was there."""
        newest = self.place.value >= self.place.max
        self.place.disabled = self.back.disabled = count == 0
        self.place.max = max(0, count - 1)
        if newest and self.place.value != self.place.max:
            self.place.value = self.place.max
        else:
            self._worker.post("look", self._look)

    def _shown(self) -> Snapshot | None:
        try:
            return self.store[int(self.place.value)]
        except IndexError:  # released meanwhile: the next look corrects the slider
            return None

    def _look(self) -> None:
        snapshot = None if self.store.closed else self._shown()
        if snapshot is None:
            return
        size = self.store.nbytes
        parts = [f"{format_size(getattr(size, tier))} {tier}" for tier in _TIERS
                 if getattr(size, tier)]  # fmt: skip
        self._say(f"step {snapshot.step:,} of {len(self.store)} kept; {', '.join(parts)}")
        self.view.show(snapshot.psi, snapshot.step, last=True)

    def _go_back(self) -> None:
        snapshot = self._shown()
        if snapshot is not None and self.on_restore is not None:
            self.on_restore(snapshot)

    def _say(self, text: str) -> None:
        self.status.value = f"<span>{html.escape(text)}</span>"
