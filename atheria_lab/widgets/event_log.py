"""The log of a bench, in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atheria_lab.widgets.live import LiveView, text
from atheria_lab.widgets.stream import Message

Entry = tuple[str, str, str]


class LogView(LiveView):
    """Lines with their time and level, the newest at the end.

    Every message holds all lines, so neither side keeps more than is shown.

    Args:
        limit: lines at most, of which the heading tells.
        per_second: pictures at most.
    """

    _esm = text("page.js", "log_view.js")
    _css = text("log_view.css")

    def __init__(self, limit: int = 500, *, per_second: float = 8.0, **traits: Any) -> None:
        self.limit = limit
        super().__init__(per_second=per_second, **traits)

    def show(self, entries: Sequence[Entry], dropped: int = 0, *, last: bool = True) -> bool:
        """Show these lines in place of those before.

        Args:
            entries: (time, level, text), the oldest first; of more than ``limit`` the newest are
                shown. Levels with a colour are "warning" and "error".
            dropped: how many older ones there were.
            last: show them even if the lines before have only just been shown.
        """
        return self.stream.offer(lambda: self._message(entries, dropped), last=last)

    def _message(self, entries: Sequence[Entry], dropped: int) -> Message:
        shown = [list(entry) for entry in entries[-self.limit :]]
        content = {"kind": "log", "entries": shown, "dropped": dropped, "limit": self.limit}
        return content, []
