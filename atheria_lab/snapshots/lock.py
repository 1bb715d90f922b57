"""One writer a directory: a lock of the operating system, gone with the process that held it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAME = "writer.lock"


class WriterLock:
    """Held from its making to ``release()``.

    Raises:
        RuntimeError: another store holds it, in this process or another.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._descriptor)
        except OSError:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise RuntimeError(
                f"directory: {folder} is being written by another store (process {holder or '?'}). "
                "Close that one, take another directory, or open this one with readonly=True."
            ) from None
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())
        except OSError:
            pass  # on a full disk the lock holds all the same; only its note is missing

    def release(self) -> None:
        """Let others write; again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 2**30, os.SEEK_SET)  # beyond the note, which others must read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
