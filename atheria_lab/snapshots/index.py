"""The catalogue of a directory of snapshots: SQLite, so that readers may look on while one writes.

SQLite does not notice a flipped bit either. Every row carries a checksum of itself, and the
whole table a count and a sum that change in the same transaction: what does not match is
:class:`DamagedIndex`, and the directory is then read anew from its files.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from atheria_lab.snapshots.files import FORMAT, Record, checksum

NAME = "snapshots.sqlite"
_TABLES = """
CREATE TABLE snapshots (
  id INTEGER PRIMARY KEY, step INTEGER, name TEXT, nbytes INTEGER, crc32c INTEGER,
  shape TEXT, dtype TEXT, state_nbytes INTEGER, law TEXT, row_crc32c INTEGER
);
CREATE TABLE totals (rows INTEGER, row_sum INTEGER, format INTEGER);
"""


class DamagedIndex(Exception):  # noqa: N818  # it is mended, not raised to users
    """The index does not match its checksums, or is no database."""


class Index:
    """Rows of :class:`Record`, in a transaction each.

    Args:
        folder: where it lives; it must exist.
        readonly: look on, beside a writer or not.
        durable: every transaction is on the medium when it returns.

    Raises:
        DamagedIndex: it is there and is no index.
        ValueError: it was written by a newer version.
    """

    def __init__(self, folder: Path, *, readonly: bool, durable: bool) -> None:
        self._path = folder / NAME
        uri = self._path.absolute().as_uri()
        if readonly:
            # On a medium that cannot be written, SQLite cannot make the file its readers share.
            still = not os.access(folder, os.W_OK) and not Path(f"{self._path}-wal").exists()
            uri += "?mode=ro" + ("&immutable=1" if still else "")
        self._database = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10
        )
        try:
            self._prepare(readonly=readonly, durable=durable)
        except BaseException:
            self._database.close()
            raise

    def rows(self) -> list[Record]:
        """All records in the order of their ids.

        Raises:
            DamagedIndex: a row, or the table, does not match its checksum.
        """
        try:
            self._database.execute("BEGIN")
            try:
                rows = self._database.execute("SELECT * FROM snapshots ORDER BY id").fetchall()
                totals = self._totals()
            finally:
                self._database.execute("COMMIT")
            records = [_record(row) for row in rows]
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise DamagedIndex(str(error)) from error
        if totals != (len(rows), _sum(row[-1] for row in rows), FORMAT):
            raise DamagedIndex("its rows do not add up")
        return records

    def change(self, add: Iterable[Record] = (), remove: Iterable[Record] = ()) -> None:
        """Add and remove records, all or none.

        Raises:
            OSError: the disk is full, or fails.
        """
        added, removed = [_row(each) for each in add], [_row(each) for each in remove]
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany("DELETE FROM snapshots WHERE id = ?",
                                           [row[:1] for row in removed])  # fmt: skip
                self._database.executemany(
                    "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", added
                )
                count, total, _ = self._totals()
                count += len(added) - len(removed)
                total ^= _sum(row[-1] for row in (*added, *removed))  # type: ignore[misc]
                self._database.execute("UPDATE totals SET rows = ?, row_sum = ?", (count, total))
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(
                code, f"{os.strerror(code)} (SQLite: {error})", str(self._path)
            ) from error

    def version(self) -> int:
        """A number that changes whenever another process has changed the index."""
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Let go of the files."""
        self._database.close()

    def _totals(self) -> tuple[int, int, int]:
        """How many rows there are, what their checksums come to, and the format."""
        found = self._database.execute("SELECT * FROM totals").fetchall()
        if len(found) != 1:
            raise sqlite3.DatabaseError(f"{len(found)} totals")
        rows, row_sum, written = found[0]
        return rows, row_sum, written

    def _prepare(self, *, readonly: bool, durable: bool) -> None:
        try:
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version > FORMAT and self._totals()[2] >= version:  # said twice, so no flipped bit
                raise ValueError(
                    f"directory: {self._path} was written by a newer version (format {version}; "
                    f"this one reads up to {FORMAT}). Update atheria-lab."
                )
            if version > FORMAT:
                raise DamagedIndex("it names two formats")
            if readonly:
                return
            self._database.execute("PRAGMA journal_mode = WAL")
            # NORMAL still syncs before a checkpoint, so a lost machine costs rows, not the index.
            self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            if version == 0:
                self._database.executescript(
                    f"BEGIN; {_TABLES} INSERT INTO totals VALUES (0, 0, {FORMAT});"
                    f"PRAGMA user_version = {FORMAT}; COMMIT;"
                )
            check = self._database.execute("PRAGMA quick_check(1)").fetchone()
            if check != ("ok",):
                raise DamagedIndex(str(check[0]))
        except sqlite3.DatabaseError as error:
            raise DamagedIndex(str(error)) from error


def _row(record: Record) -> tuple[object, ...]:
    row = (*record[:5], json.dumps(record.shape), *record[6:])
    return (*row, checksum(json.dumps(row).encode()))


def _record(row: tuple[object, ...]) -> Record:
    if checksum(json.dumps(row[:-1]).encode()) != row[-1]:
        raise ValueError(f"its row {row[0]} does not match its checksum")
    record = Record(*row[:-1])  # type: ignore[arg-type]  # the checksum vouches for the types
    return record._replace(shape=tuple(json.loads(str(row[5]))))


def _sum(checksums: Iterable[int]) -> int:
    total = 0
    for each in checksums:
        total ^= each
    return total
