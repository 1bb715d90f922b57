"""torch's global random numbers, replayed when a step is recomputed.

Dropout and the like draw from the global generators. A checkpoint remembers their state, so
that the steps after it draw the same numbers again.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The states of the CPU's generator and of those of the CUDA devices in use."""

    cpu: Tensor
    cuda: dict[int, Tensor]

    @classmethod
    def capture(cls, devices: Sequence[int], like: RandomState | None = None) -> RandomState:
        """The present states; ``like`` itself if they are the same, which then costs nothing."""
        now = cls(
            torch.get_rng_state(), {index: torch.cuda.get_rng_state(index) for index in devices}
        )
        return like if like is not None and now.same_as(like) else now

    def same_as(self, other: RandomState) -> bool:
        """Whether both would draw the same numbers."""
        return _bytes(self.cpu) == _bytes(other.cpu) and all(
            _bytes(state) == _bytes(other.cuda[index]) for index, state in self.cuda.items()
        )

    def restore(self) -> None:
        """Set the generators back to these states."""
        torch.set_rng_state(self.cpu)
        for index, state in self.cuda.items():
            torch.cuda.set_rng_state(state, index)


@contextmanager
def preserved(devices: Sequence[int]) -> Generator[None]:
    """Whatever the block draws, the generators go on afterwards as if it had not."""
    before = RandomState.capture(devices)
    try:
        yield
    finally:
        before.restore()


def cuda_devices(leaves: Sequence[Tensor]) -> list[int]:
    """The CUDA devices on which these tensors live."""
    return sorted({leaf.get_device() for leaf in leaves if leaf.is_cuda})


def _bytes(state: Tensor) -> bytes:
    return state.numpy().tobytes()
