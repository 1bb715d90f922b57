"""A log that does not grow."""

from __future__ import annotations

import html
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, overload

from atheria_lab._checks import instance, integer, one_of

_MOST_CHARACTERS = 4000
_LEVELS = ("debug", "info", "warning", "error", "critical")
_COLOURS = {"warning": "#b8860b", "error": "#d9534f", "critical": "#d9534f"}


class Event(NamedTuple):
    """One entry of an :class:`EventLog`.

    Attributes:
        time: seconds since 1970.
        level: "debug", "info", "warning", "error" or "critical", or a level's name of your own.
        text: what happened, with the traceback if there was one, at most 4,000 characters.
        source: the logger it came through; empty for what :meth:`EventLog.add` was given.
    """

    time: float
    level: str
    text: str
    source: str

    def __str__(self) -> str:
        source = f"{self.source}: " if self.source else ""
        return f"{self._clock()} {self.level:<8} {source}{self.text}"

    def _clock(self) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time))


class EventLog(logging.Handler):
    """The newest entries of a session; the oldest go first, and are counted as they go.

    It is a handler of :mod:`logging` too. An entry is text only: it holds no arguments and no
    traceback's frames, so no tensor stays alive for having been logged. Any thread may add, any
    may read. ::

        log = al.EventLog()
        log.add("the law was swapped")
        logging.getLogger("atheria_lab").addHandler(log)
        log  # in a notebook: a table, the newest first

    Args:
        max_entries: at least 1.
        level: the least level that is kept of what comes through :mod:`logging`.
    """

    def __init__(self, max_entries: int = 500, *, level: int | str = logging.NOTSET) -> None:
        self.max_entries = integer("max_entries", max_entries)
        self._entries: deque[Event] = deque(maxlen=self.max_entries)
        self._total = 0
        self._listeners: list[Callable[[Event], None]] = []
        self._guard = threading.Lock()
        super().__init__(level)

    def add(self, text: str, level: str = "info") -> None:
        """One entry more.

        Args:
            text: what happened; past 4,000 characters it is cut, and says so.
            level: "debug", "info", "warning", "error" or "critical".

        Raises:
            TypeError: text is no string.
            ValueError: an unknown level.
        """
        instance("text", text, str, "a string")
        self._append(Event(time.time(), one_of("level", level, _LEVELS), _cut(text), ""))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's text: :mod:`logging` calls it."""
        try:
            text = self.format(record)
        except Exception:  # as every handler does: logging decides whether to tell
            self.handleError(record)
            return
        self._append(Event(record.created, record.levelname.lower(), _cut(text), record.name))

    @property
    def total(self) -> int:
        """How many entries ever came."""
        return self._total

    @property
    def dropped(self) -> int:
        """How many of them are gone."""
        with self._guard:
            return self._total - len(self._entries)

    def listen(self, heard: Callable[[Event], None]) -> Callable[[], None]:
        """Have a function called with each new entry, on the thread that adds it.

        Returns:
            A function that ends it.
        """
        instance("heard", heard, Callable, "a function of an Event")
        with self._guard:
            self._listeners = [*self._listeners, heard]

        def leave() -> None:
            with self._guard:
                self._listeners = [each for each in self._listeners if each is not heard]

        return leave

    def resize(self, max_entries: int) -> None:
        """Keep at most so many entries from now on; the oldest go."""
        integer("max_entries", max_entries)
        with self._guard:
            self.max_entries = max_entries
            self._entries = deque(self._entries, maxlen=max_entries)

    def clear(self) -> None:
        """Drop all entries; they count as dropped."""
        with self._guard:
            self._entries.clear()

    def entries(self) -> list[Event]:
        """All that is kept, the oldest first, as of now."""
        with self._guard:
            return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.entries())

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return self.entries()[index]

    def __repr__(self) -> str:
        return f"EventLog({len(self)} entries, {self.dropped:,} dropped)"

    def _repr_html_(self) -> str:
        rows = "".join(_row(event) for event in reversed(self.entries()))
        return (
            f"<div style='max-height:20em;overflow:auto'><table>{rows}</table></div>"
            f"<code>{html.escape(repr(self))}</code>"
        )

    def _append(self, event: Event) -> None:
        with self._guard:
            self._entries.append(event)
            self._total += 1
            listeners = self._listeners
        for heard in listeners:
            heard(event)


def _row(event: Event) -> str:
    colour = _COLOURS.get(event.level, "inherit")
    cells = [event._clock(), event.level, event.source, event.text]
    texts = "".join(
        f"<td style='text-align:left;white-space:pre-wrap'>{html.escape(cell)}</td>"
        for cell in cells
    )
    return f"<tr style='color:{colour}'>{texts}</tr>"


def _cut(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    note = f" … ({len(text):,} characters)"
    return text[: _MOST_CHARACTERS - len(note)] + note
