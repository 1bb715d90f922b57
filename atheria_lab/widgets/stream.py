"""Messages to a browser that may be slow, hidden, reloaded or gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

Message = tuple[dict[str, Any], list[bytes]]


class Stream:
    """At most two messages travel unacknowledged; of those that wait, the newest wins.

    An acknowledgement is for a message and for all before it.

    Whatever the browser does, at most one message is held here, so that nothing grows. Nothing
    travels before a page says hello, nor while all pages say that they are hidden.

    Args:
        send: called with a message's JSON part and its buffers, from any thread.
        per_second: messages are made at most this often; 0 sets no limit.
        window: messages that may travel at once.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any], list[bytes]], None],
        *,
        per_second: float = 60.0,
        window: int = 2,
    ) -> None:
        self._send = send
        self._pause = 1 / per_second if per_second else 0.0
        self._window = window
        self._lock = threading.RLock()
        self._travelling: set[int] = set()
        self._waiting: Message | None = None
        self._newest: Message | None = None
        self._next_at = 0.0
        self._visible = False
        self._closed = False
        self.sent = 0
        self.acknowledged = 0
        self.dropped = 0

    @property
    def due(self) -> bool:
        """Whether a message offered now would be made, and somebody looks (or nobody ever did)."""
        seen = self._visible or self._newest is None
        return seen and not self._closed and time.monotonic() >= self._next_at

    def offer(self, make: Callable[[], Message], *, last: bool = False) -> bool:
        """Have a message made and sent as soon as the browser can take it.

        Args:
            make: makes it; it is not called where the message would come too soon after the one
                before.
            last: make it all the same: no other comes after it for a while.

        Returns:
            Whether it was made.
        """
        now = time.monotonic()
        if self._closed or (now < self._next_at and not last):
            return False
        message = make()
        with self._lock:
            self._next_at = now + self._pause
            self._newest = message
            if self._waiting is not None:
                self.dropped += 1
            self._waiting = message
            self._move()
        return True

    def receive(self, content: dict[str, Any]) -> bool:
        """Take what a page sent; ``False`` if it is not about the stream."""
        kind = content.get("kind")
        with self._lock:
            if kind == "ack":
                if content.get("id") in self._travelling:
                    arrived = {each for each in self._travelling if each <= content["id"]}
                    self._travelling -= arrived
                    self.acknowledged += len(arrived)
            elif kind == "hello":  # a page has come, or come back: what travelled may be lost
                self._travelling.clear()
                self._visible = True
                self._waiting = self._newest
            elif kind == "quiet":  # it waits: what travels was lost on a broken connection
                self._waiting = self._newest if self._travelling else self._waiting
                self._travelling.clear()
            elif kind == "hidden":
                self._visible = False
            else:
                return False
            self._move()
            return True

    def close(self) -> None:
        """Drop everything; nothing is sent from now on."""
        with self._lock:
            self._closed = True
            self._waiting = self._newest = None
            self._travelling.clear()

    def _move(self) -> None:
        if self._waiting is None or not self._visible or len(self._travelling) >= self._window:
            return
        content, buffers = self._waiting
        self._waiting = None
        self.sent += 1
        self._travelling.add(self.sent)
        self._send({**content, "id": self.sent}, buffers)
