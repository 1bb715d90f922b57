"""A beat for what shows a thing that others change."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

log = logging.getLogger(__name__)


class Ticker:
    """Calls ``act(owner)`` again and again in a thread of its own, until the owner is gone.

    Args:
        owner: held weakly; ``act`` must not hold it.
        act: called with it; what it raises is logged once.
        seconds: between two calls.
    """

    def __init__(self, owner: _T, act: Callable[[_T], object], seconds: float) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=_beat, args=(weakref.ref(owner), act, seconds, self._ended),
            name="atheria-lab ticker", daemon=True,
        )  # fmt: skip
        self._thread.start()

    def close(self) -> None:
        """No call begins from now on."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(5)


def _beat(
    owner: weakref.ref[_T], act: Callable[[_T], object], seconds: float, ended: threading.Event
) -> None:
    failed = False
    while not ended.wait(seconds):
        alive = owner()
        if alive is None:
            return
        try:
            act(alive)
        except Exception:  # a picture that fails must not end those that follow
            if not failed:
                log.warning("%s failed", act, exc_info=True)
            failed = True
        del alive
