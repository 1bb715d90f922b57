"""EventLog: what happened, in the browser."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

from atheria_lab import eventlog
from atheria_lab.widgets.live import LiveView, text
from atheria_lab.widgets.stream import Message


class EventLog(LiveView):
    """The entries of an :class:`atheria_lab.EventLog` as they come, the newest at the end.

    ::

        view = al.widgets.EventLog()
        display(view)
        view.events.add("the law was swapped")
        logging.getLogger("atheria_lab").addHandler(view.events)  # any program's log

    Every message holds all entries, so the page keeps no more than the log does.

    Args:
        events: the log to follow; by default a new one of 500 entries.
        per_second: pictures at most.
    """

    _esm = text("page.js", "event_log.js")
    _css = text("event_log.css")
    _later: threading.Timer | None = None

    def __init__(
        self, events: eventlog.EventLog | None = None, *, per_second: float = 8.0, **traits: Any
    ) -> None:
        self.events = events if events is not None else eventlog.EventLog()
        self._pause = 1 / per_second
        super().__init__(per_second=per_second, **traits)
        me = weakref.ref(self)
        self._leave = self.events.listen(lambda _: _heard(me))
        self.refresh()

    def refresh(self) -> None:
        """Show what is in the log now."""
        self.stream.offer(self._message, last=True)

    def close(self) -> None:
        """Follow the log no longer, and free everything; the log stays."""
        if hasattr(self, "_leave"):
            self._leave()
        if self._later is not None:
            self._later.cancel()
        super().close()

    def _event(self) -> None:
        """Show it now if a picture is due, else once for all that come meanwhile."""
        if self.stream.offer(self._message) or (self._later is not None and self._later.is_alive()):
            return
        self._later = threading.Timer(self._pause, self.refresh)
        self._later.daemon = True
        self._later.start()

    def _message(self) -> Message:
        entries = [
            [time.strftime("%H:%M:%S", time.localtime(event.time)), event.level, event.text]
            for event in self.events.entries()
        ]
        limit = self.events.max_entries
        return {
            "kind": "log",
            "entries": entries,
            "dropped": self.events.dropped,
            "limit": limit,
        }, []


def _heard(view: weakref.ref[EventLog]) -> None:
    log = view()
    if log is not None:
        log._event()
