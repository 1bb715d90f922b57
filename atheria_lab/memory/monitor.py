"""The memory of this process as curves, while it works."""

from __future__ import annotations

import html
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from atheria_lab._checks import number
from atheria_lab.memory import process, track
from atheria_lab.memory.chart import Line, chart
from atheria_lab.memory.curve import Curve
from atheria_lab.memory.device import CudaMark, device_bytes
from atheria_lab.memory.limits import Limit, holding_limit
from atheria_lab.memory.owners import claimed_bytes
from atheria_lab.memory.sizes import format_size, parse_size

_T = TypeVar("_T")
Reading = Callable[[], int | None]

log = logging.getLogger(__name__)

# The kernel walks through all pages for the USS, and a limit rarely changes.
_SECONDS_BETWEEN_SLOW_READINGS = 30.0
_MOST_OWNERS = 24
# No fork happens while a sample is taken, so a child finds every lock free.
_sampling = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_sampling.acquire,
        after_in_parent=_sampling.release,
        after_in_child=_sampling.release,
    )


class Monitor:
    """Samples the memory of this process in a thread of its own.

    ::

        with al.memory.Monitor(interval=0.1) as monitor:
            trainer.train(episodes=100)
        monitor  # in a notebook: the curves
        monitor.curves["heap in use"].peak

    The curves: "heap in use" (what malloc has handed out: CPU tensors are in it), "resident" (RSS),
    "unique" (USS, every 30 seconds: it is slow), "tensors" (what a ``track_peak`` block holds
    now: peaks between two samples are in it), for each CUDA device in use "allocated" (peaks
    between two samples too), "reserved", "inactive" and "device" (all processes; it needs
    pynvml), "pinned host", and "of <owner>" for what was claimed. What does not answer is
    ``None`` and shown as unknown, never as 0.

    A curve holds at most 1,000 points: older ones are joined, and keep their least and most.
    The thread holds the monitor weakly and ends with it. To start a running monitor again, or to
    stop one that does not run, does nothing. A forked child has the curves up to the fork, and
    no thread; it may start one. A reading that raises is logged once, and unknown from then on
    while it does.

    Args:
        interval: seconds between two samples, at least 0.001.
        budget: bytes, or "512 MiB": a limit of your own, for :attr:`limit`.
        readings: more curves: by name, functions that return bytes, or ``None`` for unknown.

    Attributes:
        curves: by name.
        limit: the limit that really holds for CPU memory: the smallest of the cgroups above
            this process, resource limits, the machine, and the budget; ``None`` if none is known.
    """

    def __init__(
        self,
        interval: float = 0.1,
        *,
        budget: int | str | None = None,
        readings: Mapping[str, Reading] | None = None,
    ) -> None:
        self.interval = number("interval", interval, least=0.001)
        self.curves: dict[str, Curve] = {}
        self._budget = None if budget is None else parse_size(budget, name="budget")
        self.limit: Limit | None = holding_limit(budget=self._budget)
        self._readings = dict(readings or {})
        self._marks: dict[int, CudaMark] = {}
        self._tracked: tuple[weakref.ref[track.Peak], track.Mark] | None = None
        self._failed: set[str] = set()
        self._started = time.monotonic()
        self._slow_at = -1e9
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether its thread samples."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> Self:
        """Begin to sample; nothing happens if it does already."""
        if not self.running:
            self._stop = threading.Event()
            weakref.finalize(self, self._stop.set)
            self._thread = threading.Thread(
                target=_sample, args=(weakref.ref(self), self._stop, self.interval),
                name="atheria-lab memory", daemon=True,
            )  # fmt: skip
            self.sample()
            self._thread.start()
        return self

    def stop(self) -> None:
        """Take a last sample and end the thread; nothing happens if there is none."""
        if self.running:
            assert self._thread is not None
            self._stop.set()
            if self._thread is not threading.current_thread():
                self._thread.join()
            self.sample()
        self._thread = None

    def sample(self) -> None:
        """Take one sample now."""
        with _sampling:
            now = time.monotonic() - self._started
            for name, value in self._read(now).items():
                curve = self.curves.get(name)
                if curve is None:
                    curve = self.curves[name] = Curve()
                curve.sample(now, value)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        lines = [f"Monitor({state}, every {self.interval:g} s, limit {self._limit_text()})"]
        lines += [f"  {name}: now {now}, peak {peak}" for name, now, peak in self._rows()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        lines = [
            Line(name, [(p.time, p.low, p.high) for p in curve.points])
            for name, curve in list(self.curves.items())
            if curve.count and not name.startswith("of ") and name != "unique"
        ]
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{now}</td><td>{peak}</td></tr>"
            for name, now, peak in self._rows()
        )
        title = f"limit {html.escape(self._limit_text())}"
        return (
            f"{chart(lines, x_label='seconds')}<p>{title}</p>"
            f"<table><tr><th></th><th>now</th><th>peak</th></tr>{rows}</table>"
        )

    def _rows(self) -> list[tuple[str, str, str]]:
        return [
            (name, _text(curve.newest), _text(curve.peak))
            for name, curve in list(self.curves.items())
        ]

    def _limit_text(self) -> str:
        limit = self.limit
        return "unknown" if limit is None else f"{_text(limit.bytes)} ({limit.name})"

    def _read(self, now: float) -> dict[str, int | None]:
        values: dict[str, int | None] = {
            "heap in use": self._ask("heap in use", process.heap_in_use),
            "resident": self._ask("resident", process.resident),
            "tensors": self._ask("tensors", self._tracked_bytes),
        }
        if now - self._slow_at >= _SECONDS_BETWEEN_SLOW_READINGS:
            self._slow_at = now
            values["unique"] = self._ask("unique", process.unique)
            self.limit = self._ask("limit", lambda: holding_limit(budget=self._budget))
        values |= self._ask("device", lambda: device_bytes(self._marks)) or {}
        for name, reading in self._readings.items():
            values[name] = self._ask(name, reading)
        claims = self._ask("owners", claimed_bytes) or {}
        for owner in {*claims, *(name[3:] for name in self.curves if name.startswith("of "))}:
            if f"of {owner}" in self.curves or len(self.curves) < _MOST_OWNERS + len(values):
                values[f"of {owner}"] = claims.get(owner, 0)
        return values

    def _ask(self, name: str, reading: Callable[[], _T]) -> _T | None:
        try:
            return reading()
        except Exception:  # a sampler must never end what it watches
            if name not in self._failed:
                self._failed.add(name)
                log.warning("Monitor: %s is unknown, its reading failed", name, exc_info=True)
            return None

    def _tracked_bytes(self) -> int | None:
        """What the outermost tracked block held at most since the last sample."""
        peak = next(iter(track.live), None)
        if peak is None:
            self._tracked = None
            return None
        if self._tracked is None or self._tracked[0]() is not peak:
            self._tracked = (weakref.ref(peak), peak.mark())
            return peak.live_bytes
        return self._tracked[1].take()


def _text(size: int | None) -> str:
    return "unknown" if size is None else format_size(size)


def _sample(monitor: weakref.ref[Monitor], stop: threading.Event, interval: float) -> None:
    while not stop.wait(interval):
        alive = monitor()
        if alive is None:
            return
        alive.sample()
        del alive
