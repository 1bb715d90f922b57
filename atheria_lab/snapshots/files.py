"""One state, one immutable safetensors file; its name carries its step and its checksum.

The layout is that of safetensors: eight bytes with the length of the header, the header in
JSON, the numbers. It is written and read here and not by the library, because the checksum is
taken of the very bytes that go out, without a second copy in memory; the library opens
the same files (complex numbers as ``[..., 2]``, compressed ones as bytes). A file is read into
memory of its own and never mapped: a mapped file that somebody cuts short ends the process.
"""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from atheria_lab.engine import EngineState
from atheria_lab.snapshots.codecs import Compression, decode, encode

FORMAT = 1
TEMPORARY = ".writing-"
_NAME = re.compile(r"(\d{10})-step(\d{12,})-([0-9a-f]{8})\.safetensors", re.ASCII)
_CHUNK = 4 * 2**20  # small enough to be checksummed and written out of the cache
_ALIGN = 64
_DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TORCH = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (*_DTYPES, torch.complex64, torch.complex128)
}


class DamagedSnapshotError(ValueError):
    """A snapshot's file is gone, or is not what was written.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"snapshot: {path} is damaged: {reason}. The others are still readable.")
        self.path = path


class Record(NamedTuple):
    """What the index knows of a file.

    Attributes:
        id: counts what the directory was ever given.
        step: steps done.
        name: of the file.
        nbytes: of the file.
        crc32c: of the whole file.
        shape: of psi.
        dtype: of psi, as torch names it.
        state_nbytes: of the tensors in memory.
        law: the law's fingerprint.
    """

    id: int
    step: int
    name: str
    nbytes: int
    crc32c: int
    shape: tuple[int, ...]
    dtype: str
    state_nbytes: int
    law: str


def state_nbytes(state: EngineState) -> int:
    """Bytes of a state's tensors."""
    return state.psi.nbytes + sum(tensor.nbytes for tensor in state.hidden)


def write_state(
    folder: Path, number: int, state: EngineState, compression: Compression, *, sync: bool
) -> Record:
    """Write a state beside its place, and move it in.

    Raises:
        OSError: as the file system says it; nothing is left behind.
    """
    header, pieces = _layout(state, compression)
    temporary = folder / f"{TEMPORARY}{number:010d}"
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644
    )
    try:
        try:
            crc = size = 0
            for piece in (np.frombuffer(header, dtype=np.uint8), *pieces):
                for start in range(0, len(piece), _CHUNK):
                    chunk = piece[start : start + _CHUNK]
                    crc = checksum(chunk, crc)
                    write_bytes(descriptor, chunk)
                size += len(piece)
            if sync:
                sync_descriptor(descriptor)
        finally:
            os.close(descriptor)
        path = folder / f"{number:010d}-step{state.steps_done:012d}-{crc:08x}.safetensors"
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        try:
            sync_folder(folder)
        except BaseException:
            path.unlink(missing_ok=True)  # the name may not last, so it was not written
            raise
    return _record(number, state.steps_done, path.name, size, crc, state)


def read_state(folder: Path, record: Record) -> EngineState:
    """The state in a file, checked from its first byte to its last.

    Raises:
        DamagedSnapshotError: it is not what was written.
    """
    path = folder / record.name
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.nbytes:
                raise DamagedSnapshotError(path, f"it has {size:,} bytes, not {record.nbytes:,}")
            data = np.empty(size, dtype=np.uint8)
            if file.readinto(data.data) != size or checksum(data) != record.crc32c:
                raise DamagedSnapshotError(path, "it does not match its checksum")
    except FileNotFoundError:
        raise DamagedSnapshotError(path, "it is not there any more") from None
    except OSError as error:
        raise DamagedSnapshotError(path, f"it cannot be read ({error.strerror})") from error
    try:
        return _parse(data)
    except NewerFormat as error:
        raise ValueError(
            f"directory: {path} was written by a newer version ({error}). Update atheria-lab."
        ) from None
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, struct.error) as error:
        raise DamagedSnapshotError(path, str(error)) from error


def scan(folder: Path, names: list[str]) -> tuple[list[Record], list[Path]]:
    """What files hold by themselves, without an index: their records, and which are damaged."""
    records, damaged = [], []
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        path = folder / name
        number, step, crc = int(match[1]), int(match[2]), int(match[3], 16)
        try:
            size = path.stat().st_size
            known = Record(number, step, name, size, crc, (), "", 0, "")
            records.append(_record(number, step, name, size, crc, read_state(folder, known)))
        except (DamagedSnapshotError, FileNotFoundError):
            if path.exists():  # else the writer has just removed it
                damaged.append(path)
    return records, damaged


def is_snapshot(name: str) -> bool:
    """Whether a file's name is one that :func:`write_state` gives."""
    return _NAME.fullmatch(name) is not None


def number_of(name: str) -> int:
    """The id in a snapshot's file name."""
    return int(name[:10])


class NewerFormat(Exception):  # noqa: N818  # it becomes a ValueError with the path
    """A file of a later version."""


def checksum(data: Any, crc: int = 0) -> int:
    """CRC-32C of bytes, going on from that of the bytes before."""
    try:
        import google_crc32c
    except ImportError:
        raise ImportError(
            "directory: snapshots on disk need google-crc32c: pip install 'atheria-lab[snapshots]'."
        ) from None
    result: int = google_crc32c.extend(crc, data)
    return result


def write_bytes(descriptor: int, data: Any) -> None:
    """Write all of some bytes. Everything that a snapshot's file holds goes through here.

    By ``write``, never through a mapping: a full disk is then an error and not a signal.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_descriptor(descriptor: int) -> None:
    """Wait until a file is on the medium."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the medium, where the system has such a call."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def _record(number: int, step: int, name: str, size: int, crc: int, state: EngineState) -> Record:
    dtype = str(state.psi.dtype).removeprefix("torch.")
    return Record(
        number, step, name, size, crc, tuple(state.psi.shape), dtype, state_nbytes(state), state.law
    )


def _layout(state: EngineState, compression: Compression) -> tuple[bytes, list[np.ndarray]]:
    """The header, and the bytes that follow it."""
    tensors = {"psi": state.psi, **{f"hidden.{i}": h for i, h in enumerate(state.hidden)}}
    facts = {k: v for k, v in state._asdict().items() if k not in ("psi", "hidden")}
    entries: dict[str, Any] = {}
    kinds, pieces, offset = {}, [], 0
    for name, tensor in tensors.items():
        codec, data = encode(tensor, compression)
        real_dtype = tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
        plain = codec == "raw"
        shape = [*tensor.shape, 2] if tensor.is_complex() else list(tensor.shape)
        entries[name] = {
            "dtype": _DTYPES[real_dtype] if plain else "U8",
            "shape": shape if plain else [len(data)],
            "data_offsets": [offset, offset + len(data)],
        }
        kinds[name] = {
            "codec": codec,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }
        pieces.append(data)
        offset += len(data)
    entries["__metadata__"] = {
        "atheria_lab": "snapshot",
        "format": str(FORMAT),
        "facts": json.dumps(facts),
        "tensors": json.dumps(kinds),
    }
    text = json.dumps(entries).encode()
    # Blanks at the end are the format's own way of alignment.
    text += b" " * (-(8 + len(text)) % _ALIGN)
    return struct.pack("<Q", len(text)) + text, pieces


def _parse(data: np.ndarray) -> EngineState:
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    start = 8 + length
    entries = json.loads(data[8:start].tobytes())
    about = entries["__metadata__"]
    if about["atheria_lab"] != "snapshot":
        raise ValueError("it is no snapshot")
    if int(about["format"]) > FORMAT:
        raise NewerFormat(f"format {about['format']}; this one reads up to {FORMAT}")
    facts, kinds = json.loads(about["facts"]), json.loads(about["tensors"])
    tensors = {}
    for name, kind in kinds.items():
        first, last = entries[name]["data_offsets"]
        piece = data[start + first : start + last]
        dtype = _TORCH[kind["dtype"]]
        if len(piece) != last - first:
            raise ValueError("it is cut short")
        if kind["codec"] == "raw" and (start + first) % dtype.itemsize:
            piece = piece.copy()  # numbers can only be viewed where they are aligned
        tensors[name] = decode(kind["codec"], piece, tuple(kind["shape"]), dtype)
    hidden = tuple(tensors[f"hidden.{i}"] for i in range(len(tensors) - 1))
    return EngineState(psi=tensors["psi"], hidden=hidden, **facts)
