"""What a tracked block did, owner after owner, and the most bytes in each part of it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from atheria_lab.memory.owners import Follower, follow, unfollow
from atheria_lab.memory.track import Peak

MOST_SPANS = 4096


class Span(NamedTuple):
    """A part of the work under one owner.

    Attributes:
        owner: whose block it was.
        steps: blocks that it sums up.
        peak: the most bytes alive in it.
        after: bytes alive at its end; ``None`` where nobody knows.
    """

    owner: str
    steps: int
    peak: int
    after: int | None = None


class _Recorder(Follower):
    def __init__(self, peak: Peak) -> None:
        self.spans: list[Span] = []
        self._peak, self._mark = peak, peak.mark()
        self._thread = threading.get_ident()
        self._innermost = False
        self._each = 1  # blocks that a span sums up

    def entered(self) -> None:
        if threading.get_ident() == self._thread:
            self._innermost = True
            self._mark.take()  # what came between two blocks is in neither

    def left(self, path: str) -> None:
        if threading.get_ident() != self._thread or not self._innermost:
            return
        self._innermost = False
        span = Span(path, 1, self._mark.take(), self._peak.live_bytes)
        last = self.spans[-1] if self.spans else None
        if last is not None and last.owner == path and last.steps < self._each:
            self.spans[-1] = _joined(last, span)
        else:
            self.spans.append(span)
        if len(self.spans) > MOST_SPANS:
            self._each *= 2
            self.spans = thinned(self.spans, self._each)


@contextmanager
def record_spans(peak: Peak) -> Generator[list[Span]]:
    """One span for each innermost ``owner`` block of this thread, in order; filled at the end.

    What happens between two blocks, or in a block around others, is in no span.

    Past 4,096 of them, neighbours of the same owner are joined, so that peaks survive.

    Args:
        peak: of the tracked block.
    """
    recorder = _Recorder(peak)
    spans: list[Span] = []
    follow(recorder)
    try:
        yield spans
    finally:
        unfollow(recorder)
        spans[:] = recorder.spans


def thinned(spans: list[Span], each: int) -> list[Span]:
    """The same work in fewer spans: neighbours of one owner joined up to ``each`` blocks."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last is not None and last.owner == span.owner and last.steps + span.steps <= each:
            joined[-1] = _joined(last, span)
        else:
            joined.append(span)
    return joined


def _joined(a: Span, b: Span) -> Span:
    return Span(a.owner, a.steps + b.steps, max(a.peak, b.peak), b.after)
