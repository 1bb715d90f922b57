"""A thread that writes states to disk, so that stepping does not wait for it."""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Sequence

from atheria_lab.engine import EngineState
from atheria_lab.snapshots.disk import Disk
from atheria_lab.snapshots.entry import Entry
from atheria_lab.snapshots.files import Record

log = logging.getLogger(__name__)

# So many states may wait before adding waits for the disk.
_QUEUE = 8


class Writer:
    """Writes entries in the order in which they were put.

    What a write raises stops the thread; the next call raises it, and the one after that has
    the same entry tried again. Nothing is dropped.

    Args:
        disk: where to.
        changed: the store's lock; told of whenever something was written or has failed.
    """

    def __init__(self, disk: Disk, changed: threading.Condition) -> None:
        self._disk = disk
        self._changed = changed
        self._queue: deque[Entry] = deque()
        self._doomed: list[Record] = []
        self._error: Exception | None = None
        self._stopped = self._told = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    def room(self) -> None:
        """Wait while too many entries wait.

        Raises:
            OSError: what a write has raised.
        """
        with self._changed:
            if self._stopped and self._told:
                self._go_on()
            self._changed.wait_for(lambda: len(self._queue) < _QUEUE or self._stopped)
            self._check()

    def put(self, entry: Entry, replacing: Sequence[Entry] = ()) -> None:
        """Have an entry written soon, and those that it replaces removed once it is there."""
        with self._changed:
            self._queue.append(entry)
            for old in replacing:
                if old.record is not None:
                    self._doomed.append(old.record)
                elif old in self._queue and old is not self._queue[0]:
                    self._queue.remove(old)
            self._changed.notify_all()

    def retry(self) -> None:
        """Try again what has failed."""
        with self._changed:
            if self._error is not None:
                log.warning("a snapshot could not be written, trying again: %s", self._error)
            self._go_on()

    def wait(self, entry: Entry | None = None) -> None:
        """Until an entry, or all, are written and what they replace is gone.

        Raises:
            OSError: as the file system says it.
        """
        with self._changed:
            if entry is None:
                self._changed.wait_for(lambda: not (self._queue or self._doomed) or self._stopped)
            else:
                self._changed.wait_for(lambda: entry not in self._queue or self._stopped)
            self._check()

    def close(self) -> None:
        """Write what waits, and end the thread; what cannot be written stays unwritten."""
        with self._changed:
            self._closing = True
            self._go_on()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self._queue:
            log.error("%d snapshots could not be written: %s", len(self._queue), self._error)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._stopped or not (self._queue or self._doomed):
                    return  # closing
                entry = self._queue[0] if self._queue else None
                doomed = list(self._doomed)
                state = None if entry is None else entry.settle()
            record = None
            try:
                if state is None:
                    self._disk.remove(doomed)
                else:
                    record = self._append(state, doomed)
            except Exception as error:  # whatever it is, the next call of the store raises it
                with self._changed:
                    self._error, self._stopped = error, True
                    self._changed.notify_all()
                continue
            finally:
                del state
            with self._changed:
                self._doomed = [each for each in self._doomed if each not in doomed]
                if entry is not None:
                    self._queue.popleft()
                    entry.record = record
                    if entry.released and record is not None:
                        self._doomed.append(record)
                del entry
                self._changed.notify_all()

    def _append(self, state: EngineState, doomed: list[Record]) -> Record:
        try:
            return self._disk.append(state, doomed)
        except OSError as error:
            if error.errno != errno.ENOSPC or not doomed:
                raise
        # What the limit has released already may be what fills the disk.
        self._disk.remove(doomed)
        with self._changed:
            self._doomed = [each for each in self._doomed if each not in doomed]
        return self._disk.append(state)

    def _has_work(self) -> bool:
        return self._closing or bool(not self._stopped and (self._queue or self._doomed))

    def _check(self) -> None:
        if self._error is not None:
            self._told = True
            raise self._error

    def _go_on(self) -> None:
        self._error, self._stopped, self._told = None, False, False
        self._changed.notify_all()
