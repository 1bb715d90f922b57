"""Exact live and peak tensor bytes of any torch code.

A dispatch mode sees every operator, forward and backward, on every device. It follows the
storages of what they return: views share a storage and count once, and a finalizer on the
storage tells when it is freed. The process's resident size would tell neither: allocators
keep pages. What stays unseen is scratch that lives and dies inside one operator, and memory
that no operator made (numpy's, a file's).
"""

from __future__ import annotations

import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from atheria_lab.memory.ledger import Ledger, storage_of
from atheria_lab.memory.owners import (
    UNKNOWN,
    Follower,
    Owners,
    claimed_bytes,
    current_owner,
    follow,
    unfollow,
)
from atheria_lab.memory.sizes import format_size


class Mark:
    """The most bytes alive at once since it was last taken: a reading of one's own of a Peak."""

    def __init__(self, peak: Peak) -> None:
        self._peak = peak
        self.most = peak.live_bytes

    def take(self) -> int:
        """The most since the last time; the search starts anew from what is live now."""
        most, self.most = self.most, self._peak.live_bytes
        return max(most, self.most)


class Peak:
    """Bytes of tensors that were made since the tracking began.

    Attributes:
        live_bytes: of them, what is alive now (the tracking of lifetimes goes on after the
            ``with`` block has ended).
        peak_bytes: the most that was alive at once inside the ``with`` block.
        owners: what is alive now, by owner, with what was claimed before the block.
        owners_at_peak: the same at the moment of the peak.
    """

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._foreign: dict[int, weakref.ref[Any]] = {}
        self._peak = 0
        self._marks: tuple[Mark, ...] = ()
        self._at_peak: dict[str, int] = {}

    @property
    def live_bytes(self) -> int:
        """Bytes alive now, of tensors made since the tracking began."""
        self._ledger.settle()
        return self._ledger.total

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at once inside the ``with`` block."""
        return self._peak

    @property
    def owners(self) -> Owners:
        """What is alive now, by owner; "unknown" is what the block made and nobody claimed."""
        self._ledger.settle()
        return _as_owners(self._by_owner())

    @property
    def owners_at_peak(self) -> Owners:
        """The same at the moment of the peak."""
        return _as_owners(self._at_peak)

    def reset_peak(self) -> None:
        """Start the search for the peak anew, from what is live now."""
        self._peak = self.live_bytes
        self._at_peak = self._by_owner()

    def mark(self) -> Mark:
        """A search for the peak of its own, that nobody else resets."""
        mark = Mark(self)
        self._marks = (*self._marks, mark)
        return mark

    def counts(self, tensor: Tensor) -> bool:
        """Whether this tensor's storage was made since the tracking began."""
        storage = storage_of(tensor)
        return storage is not None and storage in self._ledger

    def __repr__(self) -> str:
        return f"Peak(live={format_size(self.live_bytes)}, peak={format_size(self.peak_bytes)})"

    def _by_owner(self) -> dict[str, int]:
        """What the block made and nobody claimed, by the owner in force; and all claims."""
        made = dict(self._ledger.by_owner)
        made.pop(_CLAIMED, None)
        for name, size in claimed_bytes().items():
            made[name] = made.get(name, 0) + size
        return made

    def _rise(self) -> None:
        """After an operator: whether this is a peak."""
        total = self._ledger.total
        if total > self._peak:
            self._peak = total
            self._at_peak = self._by_owner()
        for mark in self._marks:
            if total > mark.most:
                mark.most = total

    def _note_foreign(self, tensor: Tensor) -> None:
        """Remember a storage that came from outside, so that views of it count nothing."""
        storage = storage_of(tensor)
        if storage is None:
            return
        key = storage._cdata
        if storage not in self._ledger and key not in self._foreign:
            foreign = self._foreign
            self._foreign[key] = weakref.ref(storage, lambda _: foreign.pop(key, None))

    def _note_output(self, tensor: Tensor) -> None:
        storage = storage_of(tensor)
        if storage is not None and storage._cdata not in self._foreign:
            self._ledger.file(storage, current_owner())


# What the block made is filed here once it is claimed: the claims count it from then on.
_CLAIMED = "\0claimed"


def _as_owners(sizes: dict[str, int]) -> Owners:
    named = dict(sizes)
    named[UNKNOWN] = named.pop("", 0)
    return Owners(named)


class _Tracker(TorchDispatchMode, Follower):
    def __init__(self, peak: Peak) -> None:
        super().__init__()
        self._peak = peak

    def claimed(self, storage: Any) -> None:
        if storage in self._peak._ledger:
            self._peak._ledger.refile(storage, _CLAIMED)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        peak = self._peak
        if func is not _LIFT:  # what torch.tensor(...) has just made is new, not from outside
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    peak._note_foreign(leaf)
        out = func(*args, **kwargs)
        peak._ledger.settle()
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                peak._note_output(leaf)
        peak._rise()
        return out


class _Copies(TorchFunctionMode):
    """Sees the source of a ``copy.deepcopy``, which reaches no operator as a tensor."""

    def __init__(self, peak: Peak) -> None:
        super().__init__()
        self._peak = peak

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            self._peak._note_foreign(args[0])
        return func(*args, **(kwargs or {}))


_LIFT = torch.ops.aten.lift_fresh.default


@contextmanager
def track_peak() -> Generator[Peak]:
    """Count the bytes of the tensors that the block makes, to the byte.

    ::

        with al.memory.track_peak() as peak:
            loss = model(x).square().mean()
            loss.backward()
        print(peak.peak_bytes, peak.live_bytes)

    Only what is made inside the block counts, over what was live at its start; each storage
    counts once. Blocks may be nested. It works on every device, and costs some microseconds
    an operator. Tensors that were made before the block and are freed in it do not count. A
    storage that is resized behind the operators' backs (``untyped_storage().resize_``) counts
    with its new size from the next operator that returns it.

    Yields:
        A :class:`Peak`.
    """
    peak = Peak()
    tracker = _Tracker(peak)
    follow(tracker)
    live.append(peak)
    try:
        with _Copies(peak), tracker:
            yield peak
            peak._ledger.settle()
    finally:
        unfollow(tracker)
        live.remove(peak)


# The blocks that are being tracked now, the outermost first.
live: list[Peak] = []


@contextmanager
def unfollowed() -> Generator[None]:
    """What the block makes counts in no tracked block: it belongs to who looks on."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield
