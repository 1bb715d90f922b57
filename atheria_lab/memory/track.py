"""Exact live and peak tensor bytes of any torch code.

A dispatch mode sees every operator, forward and backward, on every device. It follows the
storages of what they return: views share a storage and count once, and a finalizer on the
storage tells when it is freed. The process's resident size would tell neither: allocators
keep pages. What stays unseen is scratch that lives and dies inside one operator, and memory
that no operator made (numpy's, a file's).
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atheria_lab.memory.sizes import format_size


class Peak:
    """Bytes of tensors that were made since the tracking began.

    Attributes:
        live_bytes: of them, what is alive now (the tracking of lifetimes goes on after the
            ``with`` block has ended).
        peak_bytes: the most that was alive at once inside the ``with`` block.
    """

    def __init__(self) -> None:
        self._live: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._foreign: dict[int, weakref.ref[Any]] = {}
        self._total = 0
        self._peak = 0
        # Finalizers may run at any moment, in any thread: they only append, which is atomic.
        self._freed: deque[int] = deque()

    @property
    def live_bytes(self) -> int:
        """Bytes alive now, of tensors made since the tracking began."""
        self._settle()
        return self._total

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at once inside the ``with`` block."""
        return self._peak

    def reset_peak(self) -> None:
        """Start the search for the peak anew, from what is live now."""
        self._peak = self.live_bytes

    def counts(self, tensor: Tensor) -> bool:
        """Whether this tensor's storage was made since the tracking began."""
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self._live

    def __repr__(self) -> str:
        return f"Peak(live={format_size(self.live_bytes)}, peak={format_size(self.peak_bytes)})"

    def _settle(self) -> None:
        while self._freed:
            self._total -= self._freed.popleft()

    def _note_foreign(self, tensor: Tensor) -> None:
        """Remember a storage that came from outside, so that views of it count nothing."""
        storage = _storage(tensor)
        if storage is None:
            return
        key = storage._cdata
        if key not in self._live and key not in self._foreign:
            foreign = self._foreign
            self._foreign[key] = weakref.ref(storage, lambda _: foreign.pop(key, None))

    def _note_output(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        if storage is None:
            return
        key = storage._cdata
        if key in self._foreign:
            return
        size = storage.nbytes()
        known = self._live.get(key)
        if known is None:
            self._live[key] = (weakref.ref(storage, self._farewell(key)), size)
            self._total += size
        elif known[1] != size:  # the storage was resized in place
            self._live[key] = (known[0], size)
            self._total += size - known[1]

    def _farewell(self, key: int) -> Callable[[object], None]:
        live, freed = self._live, self._freed

        def farewell(_: object) -> None:
            entry = live.pop(key, None)
            if entry is not None:
                freed.append(entry[1])

        return farewell


class _Tracker(TorchDispatchMode):
    def __init__(self, peak: Peak) -> None:
        super().__init__()
        self._peak = peak

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
        peak._settle()
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                peak._note_output(leaf)
        peak._peak = max(peak._peak, peak._total)
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
    with _Copies(peak), _Tracker(peak):
        yield peak
        peak._settle()


def _storage(tensor: Tensor) -> Any | None:
    """The storage of a strided tensor; a sparse or functional tensor has none of its own."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None
