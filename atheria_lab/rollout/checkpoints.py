"""The stack of checkpoints of one rollout."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
        self._folder: tempfile.TemporaryDirectory[str] | None = None

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
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _on_disk(self, leaves: Leaves) -> Callable[[], Leaves]:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="atheria-lab-")
        path = Path(self._folder.name) / f"{len(self._slots)}.bin"
        with path.open("wb") as file:
            for leaf in leaves:
                file.write(_raw(leaf.cpu().contiguous()).data)
        kinds = [(leaf.shape, leaf.dtype, leaf.device) for leaf in leaves]

        def load() -> Leaves:
            loaded = []
            with path.open("rb") as file:
                for shape, dtype, device in kinds:
                    leaf = torch.empty(shape, dtype=dtype)
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
    return lambda: [copy.to(device) for copy, device in zip(copies, devices, strict=True)]


def _raw(leaf: Tensor) -> np.ndarray:
    """The bytes of a contiguous CPU tensor, shared with it."""
    flat: np.ndarray = leaf.reshape(-1).view(torch.uint8).numpy()
    return flat
