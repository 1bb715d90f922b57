"""Whose bytes they are.

A block can say what it makes bytes for, and an object which tensors are its own::

    with al.memory.owner("features"):
        x = embed(data)
    al.memory.claim("parameters", model.parameters())

``owner`` costs a microsecond and does nothing more until somebody looks: inside
:func:`~atheria_lab.memory.track_peak` every new storage is filed under the owner in force.
Blocks nest, and so do their names: "experiment/features". ``claim`` follows the storages it is
given, so what was claimed is known at any time.
"""

from __future__ import annotations

import gc
import html
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor
from torch.utils._pytree import tree_leaves

from atheria_lab.memory.ledger import Ledger, storage_of
from atheria_lab.memory.sizes import format_size

UNKNOWN = "unknown"
# The names that this package files its own bytes under.
PARAMETERS, GRADIENTS, OPTIMIZER = "parameters", "gradients", "optimizer"
PSI = "psi and hidden"
GRAPH = "saved for backward/every step"
CHECKPOINTS = "saved for backward/checkpoints"
SEGMENT = "saved for backward/recomputed segment"
LOSS, PROBE = "loss", "planner's probe"
SNAPSHOTS, HISTORY, WIDGETS = "snapshots", "history", "widgets"


class Follower:
    """Who wants to know of owners: a tracker, a timeline."""

    def entered(self) -> None:
        """A block of an owner begins."""

    def left(self, path: str) -> None:
        """A block ends."""

    def claimed(self, storage: Any) -> None:
        """A storage has got an owner for good."""


class _Here(threading.local):
    path = ""  # the owner in force
    outer = ""  # the same without this package's own kinds of work


_here = _Here()
_claims = Ledger()
# Replaced as a whole, so that another thread may walk through it.
_followers: tuple[Follower, ...] = ()


def follow(follower: Follower) -> None:
    """From now on, tell it of owners."""
    global _followers
    _followers = (*_followers, follower)


def unfollow(follower: Follower) -> None:
    """No longer."""
    global _followers
    _followers = tuple(other for other in _followers if other is not follower)


class owner:  # noqa: N801  # reads like torch.no_grad
    """What a block makes belongs to ``name``; blocks nest, "outer/inner".

    Args:
        name: a few words; "/" divides levels.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"name: got {name!r}; it takes a few words, such as 'features'.")
        self._name = name
        self._before: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        self._before.append((_here.path, _here.outer))
        _here.path = _here.outer = self._path()
        for follower in _followers:
            follower.entered()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for follower in _followers:
            follower.left(_here.path)
        _here.path, _here.outer = self._before.pop()

    def _path(self) -> str:
        return _join(_here.path, self._name)


class work(owner):  # noqa: N801
    """The same for this package's own kinds of work, which stand beside each other."""

    def __enter__(self) -> Self:
        outer = _here.outer
        super().__enter__()
        _here.outer = outer
        return self

    def _path(self) -> str:
        return _join(_here.outer, self._name)


def boundary(name: str) -> None:
    """One part of the work in force ends here, and the next begins: for a timeline."""
    for follower in _followers:
        follower.left(_join(_here.outer, name))
        follower.entered()


def followed() -> bool:
    """Whether anybody wants to know of owners."""
    return bool(_followers)


def _join(outer: str, name: str) -> str:
    return f"{outer}/{name}" if outer else name


def current_owner() -> str:
    """The owner in force, "" if there is none."""
    return _here.path


def claim(name: str, tensors: Any) -> None:
    """Say whose some tensors are, for as long as they live; the first word counts.

    Args:
        name: of the owner, within the one in force.
        tensors: a pytree, or an iterator of tensors; what is no tensor is passed over.
    """
    path = _join(_here.outer, name)
    leaves = tree_leaves(list(tensors) if isinstance(tensors, Iterator) else tensors)
    for leaf in leaves:
        storage = storage_of(leaf) if isinstance(leaf, Tensor) else None
        if storage is not None and storage not in _claims:
            _claims.file(storage, path)
            for follower in _followers:
                follower.claimed(storage)


def claimed_bytes() -> dict[str, int]:
    """Bytes alive now by owner, of what was claimed."""
    _claims.settle()
    return dict(_claims.by_owner)


@dataclass(frozen=True, repr=False)
class Owners(Mapping[str, int]):
    """Live bytes by owner, the largest first: a mapping that a notebook shows as a table.

    Attributes:
        sizes: bytes by owner; "unknown" is what nobody claimed, and is not there if nobody
            could tell.
    """

    sizes: dict[str, int]

    def __getitem__(self, name: str) -> int:
        return self.sizes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.sizes, key=lambda name: (-self.sizes[name], name)))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def total(self) -> int:
        """Bytes of all owners."""
        return sum(self.sizes.values())

    @property
    def unknown(self) -> float | None:
        """The part that nobody claimed, 0 to 1; ``None`` if nobody could tell."""
        if UNKNOWN not in self.sizes:
            return None
        return self.sizes[UNKNOWN] / max(1, self.total)

    def __sub__(self, before: Owners) -> Owners:
        """What has changed since."""
        names = {*self.sizes, *before.sizes}
        changes = {name: self.sizes.get(name, 0) - before.sizes.get(name, 0) for name in names}
        return Owners({name: change for name, change in changes.items() if change})

    def rows(self) -> list[tuple[str, str, str]]:
        """Owner, bytes and share, for reading; the total comes last."""
        most = sum(abs(size) for size in self.sizes.values())
        rows = [
            (name, format_size(size), f"{abs(size) / max(1, most):.1%}")
            for name in self
            for size in (self.sizes[name],)
        ]
        return [*rows, ("total", format_size(self.total), "")]

    def __repr__(self) -> str:
        rows = self.rows()
        wide = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows)

    def _repr_html_(self) -> str:
        right = "<td style='text-align:right'>"
        body = "".join(
            f"<tr><td>{html.escape(name)}</td>{right}{size}</td>{right}{share}</td></tr>"
            for name, size, share in self.rows()
        )
        return f"<table><tr><th>owner</th><th>bytes</th><th></th></tr>{body}</table>"


def owners() -> Owners:
    """Live bytes by owner, at any time: what was claimed, and what Python can still reach.

    "unknown" are the tensors that the garbage collector finds and nobody claimed. What only a
    graph of autograd holds is not among them: look inside ``track_peak`` for that
    (``peak.owners``). The search takes some tenths of a second in a large session.
    """
    _claims.settle()
    sizes, seen = dict(_claims.by_owner), set()
    unclaimed = 0
    for thing in gc.get_objects():
        if not issubclass(type(thing), Tensor):
            continue
        storage = storage_of(thing)
        if storage is None or thing.device.type == "meta" or storage._cdata in seen:
            continue
        seen.add(storage._cdata)
        unclaimed += 0 if storage in _claims else storage.nbytes()
    return Owners({**sizes, UNKNOWN: unclaimed})
