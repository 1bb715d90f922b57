"""The disk tier: a directory of immutable files and their index."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from atheria_lab.engine import EngineState
from atheria_lab.snapshots import files, index
from atheria_lab.snapshots.codecs import Compression
from atheria_lab.snapshots.files import Record
from atheria_lab.snapshots.index import DamagedIndex, Index
from atheria_lab.snapshots.lock import WriterLock

log = logging.getLogger(__name__)

Sync = Literal["full", "process"]
SYNCS = ("full", "process")


class Disk:
    """States as files in a directory, one writer, any number of readers.

    A file appears under its name when it is whole, and its row in the index after that. When a
    state is removed, its row goes first. So the index never promises what was not written, and
    whatever the index lacks is found by the names of the files, which carry step and checksum.

    Args:
        directory: made if it is not there, unless ``readonly``.
        readonly: look on, also beside a writer.
        sync: "full": a state is on the medium when ``append`` returns, and survives a lost
            machine. "process": it is with the operating system, and survives the end of this
            process, however it ends.
        compression: of files to come.

    Attributes:
        damaged: files that carry a snapshot's name, are in no index and are not whole.
    """

    def __init__(
        self,
        directory: Path,
        *,
        readonly: bool = False,
        sync: Sync = "full",
        compression: Compression = None,
    ) -> None:
        files.checksum(b"")  # is the package there?
        self.directory = directory
        self.readonly = readonly
        self._durable = sync == "full"
        self._compression = compression
        self._guard = threading.RLock()
        self._lock: WriterLock | None = None
        self._index: Index | None = None
        self._version = 0
        self.damaged: list[Path] = []
        self._adopted: list[Record] = []
        if directory.exists() and not directory.is_dir():
            raise NotADirectoryError(f"directory: {directory} is a file; it takes a directory.")
        if readonly and not directory.is_dir():
            raise FileNotFoundError(f"directory: {directory} is not there; nothing to read.")
        try:
            if not readonly:
                directory.mkdir(parents=True, exist_ok=True)
                self._lock = WriterLock(directory)
            self.records = self._open()
        except PermissionError as error:
            self.close()
            raise PermissionError(
                f"directory: no permission to {'read' if readonly else 'write in'} {directory} "
                f"({error.strerror})."
            ) from error
        except BaseException:
            self.close()
            raise
        self._next = 1 + max(
            [record.id for record in self.records]
            + [files.number_of(path.name) for path in self.damaged],
            default=0,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the snapshots' files; the index is not counted."""
        with self._guard:
            return sum(record.nbytes for record in self.records)

    def append(self, state: EngineState, replacing: Sequence[Record] = ()) -> Record:
        """Write a state; once it is there, remove those that it replaces.

        Raises:
            OSError: as the file system says it; the directory is then as it was.
        """
        with self._guard:
            number, self._next = self._next, self._next + 1
            record = files.write_state(
                self.directory, number, state, self._compression, sync=self._durable
            )
            try:
                self._writable().change(add=[record], remove=replacing)
            except BaseException:
                (self.directory / record.name).unlink(missing_ok=True)
                raise
            self.records.append(record)
            self._unlink(replacing)
            return record

    def remove(self, records: Sequence[Record]) -> None:
        """Remove states: their rows, then their files.

        Raises:
            OSError: as the file system says it; nothing is then removed.
        """
        with self._guard:
            if records:
                self._writable().change(remove=records)
                self._unlink(records)

    def read(self, record: Record) -> EngineState:
        """A state, checked.

        Raises:
            DamagedSnapshotError: its file is gone, or is not what was written.
        """
        return files.read_state(self.directory, record)

    def has(self, record: Record) -> bool:
        """Whether a state is still kept, so that its file ought to be there."""
        with self._guard:
            self.refresh()
            if record not in self.records:
                return False
            # A reader may have found a file between its row's removal and its own.
            taken_over = self.readonly and record in self._adopted
            return not taken_over or (self.directory / record.name).exists()

    def refresh(self) -> bool:
        """For a reader: look whether the writer has changed anything, and take it over."""
        with self._guard:
            if self._index is None:
                return False
            version = self._index.version()
            if version == self._version:
                return False
            self._version = version
            try:
                self.records = self._index.rows()
            except DamagedIndex as error:
                log.warning("%s: the index is damaged (%s)", self.directory, error)
                self.records, self.damaged = files.scan(self.directory, self._names())
            return True

    def close(self) -> None:
        """Let go of the directory."""
        with self._guard:
            if self._index is not None:
                self._index.close()
                self._index = None
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def _open(self) -> list[Record]:
        try:
            if self.readonly and not (self.directory / index.NAME).exists():
                raise DamagedIndex("it is not there")
            self._index = Index(self.directory, readonly=self.readonly, durable=self._durable)
            self._version = self._index.version()
            records = self._index.rows()
        except DamagedIndex as error:
            return self._without_index(str(error))
        if not self.readonly:
            self._sweep()
        return self._adopt(records)

    def _without_index(self, reason: str) -> list[Record]:
        """Read the files themselves; a writer starts a new index with what it finds."""
        if self._index is not None:
            self._index.close()
            self._index = None
        records, self.damaged = files.scan(self.directory, self._names())
        if self.readonly:
            if (self.directory / index.NAME).exists():
                log.warning(
                    "%s: the index is damaged (%s); read without it", self.directory, reason
                )
            return records
        log.warning(
            "%s: the index is damaged (%s); made anew from the files", self.directory, reason
        )
        self._sweep()
        for suffix in ("", "-wal", "-shm"):
            path = self.directory / f"{index.NAME}{suffix}"
            if path.exists():
                path.replace(self.directory / f"{index.NAME}.damaged{suffix}")
        self._index = Index(self.directory, readonly=False, durable=self._durable)
        self._index.change(add=records)
        return records

    def _adopt(self, records: list[Record]) -> list[Record]:
        """Whole files that no row tells of: the process ended between the two."""
        known = {record.name for record in records}
        found, self.damaged = files.scan(
            self.directory, [name for name in self._names() if name not in known]
        )
        taken = {record.id for record in records}
        found = [record for record in found if record.id not in taken]
        self._adopted = found
        if found and not self.readonly:
            log.info("%s: %d whole files had no row", self.directory, len(found))
            self._writable().change(add=found)
        return sorted([*records, *found])

    def _unlink(self, records: Sequence[Record]) -> None:
        for record in records:
            self.records.remove(record)
            (self.directory / record.name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """What was being written when a process ended."""
        for name in self._names():
            if name.startswith(files.TEMPORARY):
                (self.directory / name).unlink(missing_ok=True)

    def _names(self) -> list[str]:
        return os.listdir(self.directory)

    def _writable(self) -> Index:
        if self._index is None or self.readonly:
            raise RuntimeError(f"directory: {self.directory} is not open for writing.")
        return self._index
