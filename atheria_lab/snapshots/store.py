"""SnapshotStore: whole states of a run, bounded in number and bytes, in memory and on disk."""

from __future__ import annotations

import html
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, overload

import torch
from torch import Tensor

from atheria_lab._checks import instance, integer, one_of
from atheria_lab.engine import Engine, EngineState
from atheria_lab.memory import format_size, parse_size
from atheria_lab.memory.owners import SNAPSHOTS, claim, work
from atheria_lab.snapshots.codecs import Compression, check_compression, check_finite
from atheria_lab.snapshots.disk import SYNCS, Disk, Sync
from atheria_lab.snapshots.entry import Entry
from atheria_lab.snapshots.export import to_zarr
from atheria_lab.snapshots.files import DamagedSnapshotError, Record
from atheria_lab.snapshots.retention import KEEPS, Keep, victim
from atheria_lab.snapshots.snapshot import Snapshot
from atheria_lab.snapshots.staging import CudaTransport, StagingRing
from atheria_lab.snapshots.writer import Writer

log = logging.getLogger(__name__)


class TierBytes(NamedTuple):
    """Bytes of snapshots by where they are; a snapshot in two places counts in both.

    Attributes:
        device: of copies that still travel from a CUDA device.
        host: of states in host memory.
        disk: of the snapshots' files, as compressed as they are; the index is not counted.
        pinned: of the slots that CUDA copies pass through; 0 without CUDA.
    """

    device: int
    host: int
    disk: int
    pinned: int


class SnapshotStore:
    """States of an engine to come back to, the newest or an even choice of them.

    **In memory** (no directory), a store keeps at most ``limit`` states and ``host_budget``
    bytes; beyond either it releases one, as ``keep`` says.

    **With a directory** every added state is also written there, at once, by a thread of its
    own. Host memory then only keeps the newest, up to ``host_budget``: the older ones are read
    from disk. ``flush()`` returns when all that was added is durable. There are two promises:

    - *A killed process* (SIGKILL, out of memory) loses only what was not written yet: at most the
      eight newest states, and nothing that was flushed.
    - *A lost machine* (power, kernel) loses nothing that was flushed either, with
      ``sync="full"``, as far as the medium keeps what ``fsync`` gave it. With
      ``sync="process"``, which is faster, the system may lose the last half minute; what is
      then damaged is refused by name.

    Opening a directory again goes on with what is there. One store writes in it; others may look
    on with ``readonly=True``. It should be on a local disk: the index (SQLite) shares memory
    between processes.

    Args:
        limit: how many states are kept.
        host_budget: bytes of states in host memory, or a text such as "1 GiB"; ``None`` sets no
            bound but ``limit``.
        directory: where to write; made if it is not there.
        keep: "newest"; or "even", which thins out evenly over time, first and last kept.
        sync: "full" or "process", see above.
        compression: of the files. ``None``; "zstd" (Blosc, shuffled) and "pcodec", lossless; or
            ``Lossy(tolerance)``: a state then comes back within the tolerance once it is
            read from disk, and no longer bit for bit.
        readonly: only read ``directory``, also while another store writes in it.

    Raises:
        ValueError, TypeError: an argument is none that it takes.
        NotADirectoryError, PermissionError, FileNotFoundError: the directory cannot be used.
        RuntimeError: another store writes in the directory.
        ImportError: a directory needs ``pip install 'atheria-lab[snapshots]'``.

    Example:
        >>> with SnapshotStore(limit=100, directory="run") as store:
        ...     for _ in range(1000):
        ...         engine.step(100)
        ...         store.add(engine)
        ...     store.nearest(31_400).restore(engine)
    """

    def __init__(
        self,
        limit: int = 500,
        host_budget: int | str | None = None,
        directory: str | Path | None = None,
        *,
        keep: Keep = "newest",
        sync: Sync = "full",
        compression: Compression = None,
        readonly: bool = False,
    ) -> None:
        self.limit = integer("limit", limit)
        self.host_budget = (
            None if host_budget is None else parse_size(host_budget, name="host_budget")
        )
        one_of("keep", keep, KEEPS)
        one_of("sync", sync, SYNCS)
        if directory is None and readonly:
            raise ValueError("readonly: got True without a directory; give both.")
        if directory is None and compression is not None:
            raise ValueError("compression: got one without a directory; only files are compressed.")
        self.directory = None if directory is None else Path(directory)
        self.keep: Keep = keep
        self.readonly = readonly
        self._compression = check_compression(compression)
        self._entries: list[Entry] = []
        self._changed = threading.Condition()
        self._rings: dict[torch.device, StagingRing] = {}
        self._disk: Disk | None = None
        self._writer: Writer | None = None
        if self.directory is not None:
            self._disk = Disk(
                self.directory, readonly=readonly, sync=sync, compression=self._compression
            )
            self._seen = self._disk.records
            self._entries = [_entry(record) for record in self._seen]
            if not readonly:
                self._writer = Writer(self._disk, self._changed)
        self._finalizer = weakref.finalize(
            self, _shut, self._entries, self._rings, self._disk, self._writer
        )

    def add(self, engine: Engine) -> Snapshot:
        """Keep the state that an engine is in.

        It returns before the state is on disk, and on CUDA before it has left the device. With
        a directory it waits when more than eight states wait to be written, or when ``host_budget``
        is full of them.

        Raises:
            OSError: an earlier state could not be written (the disk is full, ...). That one is
                still in memory and is tried again; this one was not added: add it again.
            ValueError: ``host_budget`` is smaller than one state.
        """
        instance("engine", engine, Engine, "an Engine")
        with self._changed:
            self._check_open()
            if self.readonly:
                raise RuntimeError(f"store: {self.directory} was opened with readonly=True.")
            if self._writer is not None:
                self._writer.room()
            for entry in self._entries:
                if entry.travelling is not None and entry.travelling.ready():
                    entry.settle()
            tensors = (engine.psi, *engine.hidden)
            check_finite(tensors, self._compression)
            nbytes = sum(tensor.nbytes for tensor in tensors)
            self._make_room(engine.steps_done, nbytes)
            entry = Entry(engine.steps_done, nbytes, tuple(engine.psi.shape))
            with work(SNAPSHOTS):
                if self._travels(engine.psi.device):
                    ring = self._ring(engine.psi.device)
                    entry.travelling = ring.send(engine.state(Tensor.clone))
                else:
                    entry.state = engine.state(_copy)
                    claim(SNAPSHOTS, [entry.state.psi, *entry.state.hidden])
            self._entries.append(entry)
            gone = []
            while len(self._entries) > self.limit:
                gone.append(self._release(self.steps))
            if self._writer is not None:
                self._writer.put(entry, gone)
        return Snapshot(entry, self._reader())

    def flush(self) -> None:
        """Return when all that was added is durable; without a directory, when it is on the host.

        Raises:
            OSError: a state could not be written. It is still in memory: flush again.
        """
        with self._changed:
            self._check_open()
            for entry in self._entries:
                entry.settle()
            if self._writer is not None:
                self._writer.retry()
                self._writer.wait()

    def spill(self, wanted: int) -> int:
        """Free host memory: the oldest states are read from disk from now on.

        For :meth:`atheria_lab.memory.Limits.on_pressure`. A store without a directory, or a
        readonly one, frees nothing.

        Args:
            wanted: bytes to free.

        Returns:
            How many were freed.
        """
        freed = 0
        with self._changed:
            self._check_open()
            for entry in self._entries:
                if freed >= wanted or self._writer is None:
                    break
                if entry.in_memory:
                    self._writer.wait(entry)
                    entry.state = None
                    freed += entry.nbytes
        return freed

    def nearest(self, step: int) -> Snapshot:
        """The snapshot whose step is nearest; of several, the one added last.

        Raises:
            LookupError: there is none.
        """
        step = integer("step", step, least=0)
        with self._changed:
            entries = self._current()
            if not entries:
                raise LookupError("store: it holds no snapshot yet; add one.")
            entry = min(reversed(entries), key=lambda each: abs(each.step - step))
        return Snapshot(entry, self._reader())

    def export(self, path: str | Path, snapshots: Sequence[Snapshot] | None = None) -> None:
        """Write a zarr v3 group that other tools open, as ``xarray.open_zarr(path)`` does.

        It has ``psi`` [step, batch, row, column, channel], one state a chunk, ``step`` with the
        steps done, and ``hidden_0``, ... where the law has any. One state at a time is in memory.

        Args:
            path: of the group, a folder that is not there yet.
            snapshots: which ones, by default all.

        Raises:
            FileExistsError: there is something at ``path``.
            ValueError: there is no snapshot, or they differ in shape, dtype or law.
            ImportError: it needs ``pip install 'atheria-lab[snapshots]'``.
        """
        chosen = self[:] if snapshots is None else snapshots
        to_zarr(chosen, Path(path))

    def verify(self) -> list[DamagedSnapshotError]:
        """Read every file of the directory, and return what is wrong with which."""
        if self._disk is None:
            return []
        with self._changed:
            self._current()
            records = list(self._disk.records)
            faults = [
                DamagedSnapshotError(path, "it does not match its checksum")
                for path in self._disk.damaged
            ]
        for record in records:
            try:
                self._disk.read(record)
            except DamagedSnapshotError as error:
                if self._disk.has(record):  # else it was released meanwhile
                    faults.append(error)
        return faults

    @property
    def steps(self) -> list[int]:
        """The step of each snapshot, in the order of adding."""
        with self._changed:
            return [entry.step for entry in self._current()]

    @property
    def nbytes(self) -> TierBytes:
        """Bytes by tier, exact."""
        with self._changed:
            entries = self._current()
            return TierBytes(
                device=sum(entry.device_nbytes for entry in entries),
                host=sum(entry.host_nbytes for entry in entries),
                disk=0 if self._disk is None else self._disk.nbytes,
                pinned=sum(ring.nbytes for ring in self._rings.values()),
            )

    @property
    def closed(self) -> bool:
        """Whether it holds nothing any more."""
        return not self._finalizer.alive

    def close(self) -> None:
        """Write what waits, and let go of all memory and of the directory, which stays readable.

        Closing again does nothing.

        Raises:
            OSError: a state could not be written, and is lost. Everything is closed all the same.
        """
        if self.closed:
            return
        try:
            self.flush()
        finally:
            self._finalizer()

    def __len__(self) -> int:
        with self._changed:
            return len(self._current())

    @overload
    def __getitem__(self, index: int) -> Snapshot: ...

    @overload
    def __getitem__(self, index: slice) -> list[Snapshot]: ...

    def __getitem__(self, index: int | slice) -> Snapshot | list[Snapshot]:
        with self._changed:
            entries = self._current()
            if isinstance(index, slice):
                return [Snapshot(entry, self._reader()) for entry in entries[index]]
            place = integer("index", index, least=float("-inf"))
            if not -len(entries) <= place < len(entries):
                raise IndexError(f"index: got {place}; the store holds {len(entries)} snapshots.")
            return Snapshot(entries[place], self._reader())

    def __iter__(self) -> Iterator[Snapshot]:
        """Each snapshot that is there now, oldest first; those released meanwhile are left out."""
        for snapshot in self[:]:
            if snapshot.tier is not None:
                yield snapshot

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            if error is None:
                raise
            log.exception("%s: the last states could not be written", self.directory)

    def __repr__(self) -> str:
        if self.closed:
            return "SnapshotStore(closed)"
        size, steps = self.nbytes, self.steps
        span = f", steps {min(steps)} to {max(steps)}" if steps else ""
        disk = "" if self.directory is None else f", {format_size(size.disk)} on disk"
        return (
            f"SnapshotStore({len(steps)} of at most {self.limit}{span}, keep={self.keep!r}, "
            f"{format_size(size.host)} in host memory{disk})"
        )

    def _repr_html_(self) -> str:
        rows = {"state": "closed"}
        if not self.closed:
            size, steps = self.nbytes, self.steps
            budget = "" if self.host_budget is None else f" of {format_size(self.host_budget)}"
            rows = {
                "snapshots": f"{len(steps)} of at most {self.limit}, keep {self.keep}",
                "steps": f"{min(steps):,} to {max(steps):,}" if steps else "none yet",
                "host memory": format_size(size.host) + budget,
            }
            if size.device or size.pinned:
                rows["device"] = f"{format_size(size.device)} ({format_size(size.pinned)} pinned)"
            if self.directory is not None:
                rows["disk"] = f"{format_size(size.disk)} in {self.directory}"
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table><caption>SnapshotStore</caption>{cells}</table>"

    def _make_room(self, step: int, nbytes: int) -> None:
        """Have the host budget take one more state, which will be of this step."""
        budget = self.host_budget
        if budget is None:
            return
        if nbytes > budget:
            raise ValueError(
                f"host_budget: got {format_size(budget)}; one state of this engine takes "
                f"{format_size(nbytes)}. Give at least that."
            )
        while sum(each.nbytes for each in self._entries if each.in_memory) + nbytes > budget:
            if self._writer is None:
                self._release([*self.steps, step])
            else:
                oldest = next(entry for entry in self._entries if entry.in_memory)
                self._writer.wait(oldest)
                oldest.state = None

    def _release(self, steps: list[int]) -> Entry:
        """Release the one whose turn it is among those of these steps."""
        entry = self._entries.pop(victim(steps, self.keep))
        entry.release()
        return entry

    def _current(self) -> list[Entry]:
        """The entries; a reader takes over what its writer has changed."""
        self._check_open()
        if self.readonly and self._disk is not None:
            self._disk.refresh()
            if self._disk.records is not self._seen:
                self._seen = self._disk.records
                known = {entry.record: entry for entry in self._entries}
                self._entries[:] = [known.get(record) or _entry(record) for record in self._seen]
                for entry in set(known.values()) - set(self._entries):
                    entry.release()
        return self._entries

    def _reader(self) -> Callable[[Entry], EngineState]:
        """Reads an entry for a snapshot, which may outlive the store but must not hold it."""
        disk, changed = self._disk, self._changed

        def read(entry: Entry) -> EngineState:
            with changed:
                state, record = entry.settle(), entry.record
                if state is not None:
                    copies = tuple(tensor.clone() for tensor in state.hidden)
                    return state._replace(psi=state.psi.clone(), hidden=copies)
            if disk is None or record is None:
                raise _released(entry)
            try:
                return disk.read(record)
            except DamagedSnapshotError:
                if entry.released or not disk.has(record):
                    raise _released(entry) from None
                raise

        return read

    def _travels(self, device: torch.device) -> bool:
        """Whether a state on this device is copied while stepping goes on."""
        return device.type == "cuda"

    def _ring(self, device: torch.device) -> StagingRing:
        if device not in self._rings:
            self._rings[device] = StagingRing(CudaTransport(device))
        return self._rings[device]

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("This store is closed; make a new one, of the same directory.")


def _copy(tensor: Tensor) -> Tensor:
    """A copy by one thread: waking the others, for a few MiB, takes longer than it saves."""
    raw = tensor.to("cpu").contiguous().view(torch.uint8).numpy()
    return torch.from_numpy(raw.copy()).view(tensor.dtype)


def _entry(record: Record) -> Entry:
    return Entry(record.step, record.state_nbytes, record.shape, record=record)


def _released(entry: Entry) -> LookupError:
    return LookupError(
        f"snapshot: the one of step {entry.step} was released (by the store's limit or budget, or "
        "with the store). Read what you need before, or raise the limit."
    )


def _shut(
    entries: list[Entry],
    rings: dict[torch.device, StagingRing],
    disk: Disk | None,
    writer: Writer | None,
) -> None:
    """Everything that a store holds, let go."""
    if writer is not None:
        writer.close()
    for entry in entries:
        entry.release()
        entry.released = entry.record is None  # a snapshot in somebody's hands can still be read
    entries.clear()
    for ring in rings.values():
        ring.close()
    if disk is not None:
        disk.close()
