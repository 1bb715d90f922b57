"""One thread that does a bench's work, so that callbacks only post."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Worker:
    """Runs what is posted, one after the other, in a daemon thread of its own.

    A job posted under the name of one that still waits takes its place: a slider that moves
    ten times asks for one picture, not for ten.

    Args:
        on_error: called, in the thread, with what a job raised; the thread goes on.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._jobs: dict[str, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="atheria-lab", daemon=True)
        self._thread.start()

    def post(self, name: str, job: Callable[[], None]) -> None:
        """Have a job run soon."""
        with self._changed:
            self._jobs[name] = job
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing waits or runs; ``False`` if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout)

    def close(self) -> None:
        """Drop what waits and end the thread after what runs."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or self._jobs)
                if self._closed:
                    return
                name = next(iter(self._jobs))
                job = self._jobs.pop(name)
                self._busy = True
            try:
                job()
            except Exception as error:  # whatever a job raises is shown; the thread must go on
                log.info("job %r failed", name, exc_info=True)
                self._on_error(error)
            del job
