"""Bytes of storages by owner, each storage once, until it dies."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

from torch import Tensor


class Ledger:
    """Follows storages: how many bytes are alive, and whose they are.

    Attributes:
        total: bytes alive, as of the last :meth:`settle`.
        by_owner: the same by owner; owners without a byte are not in it.
    """

    def __init__(self) -> None:
        self.total = 0
        self.by_owner: dict[str, int] = {}
        self._live: dict[int, tuple[weakref.ref[Any], int, str]] = {}
        # Finalizers may run at any moment, in any thread: they only append, which is atomic.
        self._freed: deque[tuple[int, str]] = deque()
        self._lock = threading.Lock()

    def __contains__(self, storage: Any) -> bool:
        return storage._cdata in self._live

    def __len__(self) -> int:
        return len(self._live)

    def file(self, storage: Any, owner: str) -> None:
        """Count a new storage; one that is known keeps its owner, and counts as it is now."""
        known = self._live.get(storage._cdata)
        if known is None:
            self._enter(storage, storage.nbytes(), owner)
        elif known[1] != (size := storage.nbytes()):  # resized in place
            self._replace(storage._cdata, known, size, known[2])

    def refile(self, storage: Any, owner: str) -> None:
        """Give a storage to an owner, whoever had it."""
        known = self._live.get(storage._cdata)
        if known is None:
            self._enter(storage, storage.nbytes(), owner)
        else:
            self._replace(storage._cdata, known, storage.nbytes(), owner)

    def settle(self) -> None:
        """Take off what has died."""
        if self._freed:
            with self._lock:
                while self._freed:
                    size, owner = self._freed.popleft()
                    self._add(-size, owner)

    def _enter(self, storage: Any, size: int, owner: str) -> None:
        key, live, freed = storage._cdata, self._live, self._freed

        def farewell(_: object) -> None:
            entry = live.pop(key, None)
            if entry is not None:
                freed.append(entry[1:])

        live[key] = (weakref.ref(storage, farewell), size, owner)
        with self._lock:
            self._add(size, owner)

    def _replace(
        self, key: int, known: tuple[weakref.ref[Any], int, str], size: int, owner: str
    ) -> None:
        self._live[key] = (known[0], size, owner)
        with self._lock:
            self._add(-known[1], known[2])
            self._add(size, owner)

    def _add(self, size: int, owner: str) -> None:
        self.total += size
        bytes_now = self.by_owner.get(owner, 0) + size
        if bytes_now:
            self.by_owner[owner] = bytes_now
        else:
            self.by_owner.pop(owner, None)


def storage_of(tensor: Tensor) -> Any | None:
    """The storage of a strided tensor; a sparse or functional tensor has none of its own."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None
