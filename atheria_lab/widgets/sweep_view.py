"""SweepView: a sweep in a cell, filling up while it runs."""

from __future__ import annotations

import html
import threading

import ipywidgets as ui

from atheria_lab.scale import SweepResults
from atheria_lab.scale.results import results_table
from atheria_lab.widgets import pictures
from atheria_lab.widgets.live import drop_anchor
from atheria_lab.widgets.parts import close_all
from atheria_lab.widgets.sweep_picture import sweep_figure
from atheria_lab.widgets.worker import Worker

_MOST_ROWS = 50
_NONE = "nothing"


class SweepView(ui.VBox):
    """The table and the losses of a sweep: they fill up as results come, and can be turned.

    ``al.sweep`` shows one by itself. Of a sweep that is done::

        results = al.sweep(space, progress=False)
        al.widgets.SweepView(results)

    The page holds one picture and at most fifty rows, however long the sweep is.

    Args:
        results: of the sweep.
        link: of Dask's dashboard; it ends with a local sweep.
        per_second: pictures at most.
    """

    def __init__(
        self, results: SweepResults, link: str | None = None, *, per_second: float = 2.0
    ) -> None:
        drop_anchor()
        self.results = results
        self._pause = 1 / per_second
        names = results.varied
        episodes = max((point.episodes for point in results.points), default=1)
        self.x = ui.Dropdown(options=names or [_NONE], description="over", layout=_narrow())
        self.colour = ui.Dropdown(
            options=[_NONE, *names], value=names[1] if len(names) > 1 else _NONE,
            description="colours", layout=_narrow(),
        )  # fmt: skip
        self.episode = ui.IntSlider(
            value=episodes - 1, min=0, max=max(1, episodes - 1), description="episode",
            continuous_update=False, disabled=episodes == 1, layout=ui.Layout(width="300px"),
        )  # fmt: skip
        self.progress = ui.IntProgress(
            value=len(results.done), max=len(results), layout=ui.Layout(width="300px")
        )
        self.status = ui.HTML()
        self.picture = ui.Image(format="png", layout=ui.Layout(max_width="640px", width="100%"))
        self.table = ui.HTML()
        self._link = link
        self._hurry = threading.Event()
        self._worker = Worker(self._show_error)
        super().__init__(
            [
                ui.HBox([self.progress, self.status]),
                ui.HBox([self.x, self.colour, self.episode], layout=ui.Layout(flex_flow="wrap")),
                self.picture,
                self.table,
            ]
        )
        for control in (self.x, self.colour, self.episode):
            control.observe(lambda _: self._worker.post("draw", self._draw), names="value")
        self._draw()

    def refresh(self) -> None:
        """Show what is there now, soon; many calls make one picture."""
        self._worker.post("fill", self._fill)

    def finish(self) -> None:
        """Show what is there at the end; the dashboard of a local sweep is gone by then."""
        self._link = None
        self._hurry.set()
        self.refresh()
        self._worker.wait(10)

    def wait(self, timeout: float | None = None) -> bool:
        """Until all that was asked for is shown; ``False`` if that took longer than ``timeout``."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """End the work, and free every part; the results stay."""
        if not hasattr(self, "_worker"):  # refused before it was built
            return
        self._hurry.set()
        self._worker.close()
        close_all(self)
        super().close()

    def _fill(self) -> None:
        self._draw()
        self._hurry.wait(self._pause)

    def _draw(self) -> None:
        results = self.results
        # Of the last episode, which differs where the number of episodes is swept.
        episode = None if self.episode.value == self.episode.max else self.episode.value
        x, colour = (None if each.value == _NONE else each.value for each in (self.x, self.colour))
        colour = None if colour == x else colour
        self.picture.value = pictures.png(sweep_figure(results, x, colour, episode), dpi=110)
        self.table.value = results_table(results, _MOST_ROWS)
        self.progress.value = len(results.done)
        failed = f", {len(results.errors)} failed" if results.errors else ""
        self.status.value = f"{len(results.done)} of {len(results)}{failed}" + (
            f", <a href='{html.escape(self._link)}' target='_blank'>Dask dashboard</a>"
            if self._link
            else ""
        )

    def _show_error(self, error: Exception) -> None:
        self.status.value = html.escape(f"{type(error).__name__}: {error}")


def _narrow() -> ui.Layout:
    return ui.Layout(width="260px")
