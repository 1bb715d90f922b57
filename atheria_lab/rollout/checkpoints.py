"""The stack of checkpoints of one rollout."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atheria_lab.memory.owners import CHECKPOINTS, claim
from atheria_lab.rollout.randomness import RandomState
from atheria_lab.rollout.stepper import Leaves


@dataclass
class _Slot:
    random: RandomState
    leaves: Callable[[], Leaves]


class CheckpointStack:
    """States that were stored last come back first.

    A state on the device is kept by reference: states do not change, and that they did not is
    checked when they come back.

    Args:
        tier: where the n-th stored state goes: "device", "host" or "disk".
    """

    def __init__(self, tier: Callable[[int], str] = lambda _: "device") -> None:
        self._tier = tier
        self._slots: list[_Slot] = []
        self._folder: Path | None = None
        self._remove_folder: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._slots)

    def push(self, leaves: Leaves, random: RandomState) -> None:
        """Store a state, and the generators' states that go with it."""
        match self._tier(len(self._slots)):
            case "host":
                keep = _in_host_memory(leaves)
            case "disk":
                keep = self._on_disk(leaves)
            case _:
                keep = by_reference(leaves)
                claim(CHECKPOINTS, leaves)
        self._slots.append(_Slot(random, keep))

    def top(self) -> tuple[Leaves, RandomState]:
        """The state that was stored last, on its device."""
        slot = self._slots[-1]
        return slot.leaves(), slot.random

    def drop(self) -> None:
        """Forget the state that was stored last."""
        self._slots.pop()

    def clear(self) -> None:
        """Forget everything; files go too."""
        self._slots.clear()
        self._remove_folder()
        self._folder = None

    def _on_disk(self, leaves: Leaves) -> Callable[[], Leaves]:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="atheria-lab-"))
            # A rollout that is forgotten before its backward pass takes its files along.
            self._remove_folder = weakref.finalize(
                self, shutil.rmtree, self._folder, ignore_errors=True
            )
        path = self._folder / f"{len(self._slots)}.bin"
        kinds = []
        with path.open("wb") as file:
            for leaf in leaves:
                dense = _dense(leaf)
                file.write(_raw(dense).data)
                kinds.append((leaf.shape, dense.stride(), leaf.dtype, leaf.device))

        def load() -> Leaves:
            loaded = []
            with path.open("rb") as file:
                for shape, stride, dtype, device in kinds:
                    leaf = torch.empty_strided(shape, stride, dtype=dtype)
                    if file.readinto(_raw(leaf).data) != leaf.nbytes:
                        raise RuntimeError(f"checkpoint: {path.name} is shorter than its state.")
                    loaded.append(leaf.to(device))
            return loaded

        return load


def by_reference(leaves: Leaves) -> Callable[[], Leaves]:
    """A state to come back to; that nobody changed it in between is checked then."""
    leaves = list(leaves)
    versions = [leaf._version for leaf in leaves]

    def load() -> Leaves:
        for leaf, version in zip(leaves, versions, strict=True):
            if leaf._version != version:
                raise RuntimeError(
                    "rollout: a state was changed in place after its step had returned it, so the "
                    "steps cannot be made again from it. Let the step return new tensors, and "
                    "clone a saved state before changing it."
                )
        return list(leaves)

    return load


def _in_host_memory(leaves: Leaves) -> Callable[[], Leaves]:
    devices = [leaf.device for leaf in leaves]
    copies = [leaf.to("cpu", copy=True) for leaf in leaves]
    claim(CHECKPOINTS, copies)
    return lambda: [copy.to(device) for copy, device in zip(copies, devices, strict=True)]


def _dense(leaf: Tensor) -> Tensor:
    """A leaf on the CPU without gaps, its numbers in the order they had: kernels round by it."""
    leaf = leaf.cpu().resolve_conj().resolve_neg()
    without_gaps = leaf.stride() == torch.empty_like(leaf, device="meta").stride()
    return leaf if without_gaps else leaf.clone()


def _raw(dense: Tensor) -> np.ndarray:
    """The bytes of a CPU tensor without gaps, shared with it."""
    flat = dense.as_strided((dense.numel(),), (1,))
    raw: np.ndarray = flat.view(torch.uint8).numpy()
    return raw
