"""What a sweep gives: one result a point."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from atheria_lab.memory import format_seconds, format_size
from atheria_lab.scale.space import Point, show

_MOST_ROWS = 200


@dataclass(frozen=True, repr=False)
class SweepResult:
    """One training of a sweep.

    Attributes:
        point: what the space gave for it, as JSON holds it.
        fingerprint: of all its settings; it names the result's file.
        losses: one an episode.
        metrics: what the loss told beside each of them.
        seconds: the whole training, on its worker.
        peak_bytes: measured in the first episode: what rollout, loss and backward pass added;
            ``None`` where it was not measured.
        predicted_bytes: what the planner of the worker said it would be.
        declared_bytes: what the task asked of its worker's memory: the peak that was predicted
            before anything ran, with the law, its optimizer and the initial state.
        plan: how the rollouts were stored.
        error: why there is no result, in words; ``None`` where there is one.
        attempts: how many workers began it in this call; 0 where it was read from a file.
        trainer: the file of the trained law, where trainers were kept;
            :meth:`~atheria_lab.Trainer.load` reads it.
    """

    point: dict[str, Any]
    fingerprint: str
    losses: tuple[float, ...] = ()
    metrics: dict[str, tuple[float, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int | None = None
    predicted_bytes: int = 0
    declared_bytes: int = 0
    plan: str = ""
    error: str | None = None
    attempts: int = 0
    trainer: Path | None = None

    @property
    def loss(self) -> float | None:
        """Of the last episode; ``None`` after an error."""
        return self.losses[-1] if self.losses else None

    def row(self) -> dict[str, Any]:
        """The point's settings and what came of them, by name."""
        return {
            **self.point,
            "loss": self.loss,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "predicted_bytes": self.predicted_bytes,
            "plan": self.plan,
            "attempts": self.attempts,
            "error": self.error,
        }

    def __repr__(self) -> str:
        where = ", ".join(f"{name}={show(value)}" for name, value in self.point.items())
        if self.error is not None:
            return f"SweepResult({where}: {self.error})"
        return f"SweepResult({where}: loss {self.loss:.6g}, {self.plan})"


class SweepResults(Sequence[SweepResult]):
    """The results of a sweep, in the order of its points.

    Args:
        points: of the space.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(points)
        self._results: list[SweepResult | None] = [None] * len(self.points)

    @property
    def varied(self) -> list[str]:
        """The names that differ between the points, in the order of the space."""
        names = self.points[0].given if self.points else {}
        return [
            name for name in names
            if any(point.given[name] != self.points[0].given[name] for point in self.points)
        ]  # fmt: skip

    @property
    def done(self) -> list[SweepResult]:
        """Those that are there, the failed ones too, in the order of the points."""
        return [result for result in self._results if result is not None]

    @property
    def errors(self) -> list[SweepResult]:
        """Those that failed."""
        return [result for result in self.done if result.error is not None]

    def put(self, place: int, result: SweepResult) -> None:
        """Set the result of a point, once."""
        if self._results[place] is not None:
            raise ValueError(f"place: {self.points[place]!r} has its result already.")
        self._results[place] = result

    def table(self) -> list[dict[str, Any]]:
        """A row for each result that is there: its settings, loss, bytes, seconds and error."""
        return [result.row() for result in self.done]

    def best(self) -> SweepResult:
        """The one with the least loss.

        Raises:
            LookupError: there is no result.
        """
        rated = [result for result in self.done if result.loss is not None]
        if not rated:
            raise LookupError("results: there is none with a loss.")
        return min(rated, key=lambda result: result.losses[-1])

    @overload
    def __getitem__(self, index: int) -> SweepResult: ...

    @overload
    def __getitem__(self, index: slice) -> list[SweepResult]: ...

    def __getitem__(self, index: int | slice) -> SweepResult | list[SweepResult]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        result = self._results[index]
        if result is None:
            raise LookupError(f"index: {self.points[index]!r} has no result yet.")
        return result

    def __iter__(self) -> Iterator[SweepResult]:
        return (self[place] for place in range(len(self)))

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        errors = f", {len(self.errors)} failed" if self.errors else ""
        rated = any(result.loss is not None for result in self.done)
        best = f", the best: {self.best()!r}" if rated else ""
        return f"SweepResults({len(self.done)} of {len(self)} points{errors}{best})"

    def _repr_html_(self) -> str:
        return results_table(self)


def results_table(results: SweepResults, most: int = _MOST_ROWS) -> str:
    """The results as a table, the least loss in bold; of many, the first ``most``.

    Args:
        results: they may still be coming.
        most: rows at most, so that a page does not grow with the sweep.
    """
    done = results.done
    names = results.varied
    head = [*names, "loss", "measured peak", "predicted", "plan", "time"]
    rated = [result for result in done if result.loss is not None]
    best = results.best() if rated else None
    rows = "".join(_row(result, names, result is best) for result in done[:most])
    cells = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in head)
    more = f", the first {most} of them shown" if len(done) > most else ""
    failed = f", {len(results.errors)} failed" if results.errors else ""
    return (
        f"<table><caption>{len(done)} of {len(results)} points{failed}{more}</caption>"
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(result: SweepResult, names: list[str], best: bool) -> str:
    cells = [show(result.point[name]) for name in names]
    if result.loss is None:
        text = html.escape(result.error or "")
        rest = f"<td colspan='5' style='text-align:left'>{text}</td>"
    else:
        peak = "" if result.peak_bytes is None else format_size(result.peak_bytes)
        cells += [
            f"{result.loss:.6g}",
            peak,
            format_size(result.predicted_bytes),
            result.plan,
            format_seconds(result.seconds),
        ]
        rest = ""
    shown = "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells)
    return f"<tr style='font-weight:{600 if best else 400}'>{shown}{rest}</tr>"
