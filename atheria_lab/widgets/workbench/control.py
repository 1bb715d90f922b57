"""Pause and stop, felt between two steps."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Stopped(Exception):  # noqa: N818  # not an error: the user asked for it
    """The user pressed Stop."""


class Control:
    """What the buttons ask of the thread that works."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._paused = False
        self._stopped = False
        self._nudged = False

    @property
    def paused(self) -> bool:
        """Whether the work stands still."""
        return self._paused

    def begin(self) -> None:
        """Forget what was asked before."""
        with self._changed:
            self._paused = self._stopped = False

    def pause(self) -> None:
        """Stand still before the next step."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Go on."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def stop(self) -> None:
        """End before the next step."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def nudge(self) -> None:
        """Wake what stands still: there is something to look at."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def check(self, idle: Callable[[], None] | None = None) -> None:
        """Called between two steps, by the thread that works.

        Args:
            idle: called, while the work stands still, after each nudge.

        Raises:
            Stopped: somebody asked to stop.
        """
        while True:
            with self._changed:
                if self._paused and not self._stopped and not self._nudged:
                    self._changed.wait()
                if self._stopped:
                    raise Stopped
                nudged, self._nudged = self._nudged, False
                if not self._paused:
                    return
            if nudged and idle is not None:
                idle()
