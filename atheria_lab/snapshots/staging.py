"""From the device to the host while stepping goes on: a ring of pinned slots, its own stream.

Pinned memory is rounded up to powers of two and never given back to the system, so only these
few slots are pinned and the states themselves end in pageable memory. Each state takes three
copies:

1. on the device, in the order of the stepping stream, so that later steps may change psi;
2. into a slot, on the ring's own stream, beside the steps;
3. out of the slot, by the CPU, once the event behind the second copy has passed: when the slot
   is needed again, when somebody reads the snapshot, or when the next one is added.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from atheria_lab.engine import EngineState


class Event(Protocol):
    """A point in a stream, as ``torch.cuda.Event`` is one."""

    def query(self) -> bool:
        """Whether it has passed."""

    def synchronize(self) -> None:
        """Wait until it has."""


class Transport(Protocol):
    """What the ring asks of a device."""

    def pinned(self, nbytes: int) -> Tensor:
        """Pinned memory, uint8 ``[nbytes]``; a ``RuntimeError`` where there is none."""

    def send(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Event:
        """Copy each (target, source) beside the stepping; the event is behind the last."""


class CudaTransport:
    """Copies on a stream of its own of one CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._device = device

    def pinned(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def send(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Event:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
                # Its memory must not be given to another tensor before this stream is done.
                source.record_stream(self._stream)
            event = torch.cuda.Event()
            event.record(self._stream)
        return event


class Travelling:
    """A state on its way through a slot.

    Attributes:
        device_nbytes: of its copy on the device, 0 once it has arrived.
    """

    def __init__(self, state: EngineState, targets: Sequence[Tensor], event: Event) -> None:
        self._state: EngineState | None = state
        self._targets = targets
        self._event = event
        self._arrived: EngineState | None = None
        self.device_nbytes = sum(tensor.nbytes for tensor in (state.psi, *state.hidden))

    def ready(self) -> bool:
        """Whether :meth:`deliver` would not wait."""
        return self._arrived is not None or self._event.query()

    def deliver(self) -> EngineState:
        """The state in pageable memory; waits for its event first. The slot is free then."""
        if self._arrived is None:
            assert self._state is not None
            self._event.synchronize()
            psi, *hidden = (target.clone() for target in self._targets)
            self._arrived = self._state._replace(psi=psi, hidden=tuple(hidden))
            self._state, self._targets, self.device_nbytes = None, (), 0
        return self._arrived


class _Slot:
    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        # Weak: a snapshot that was released on its way is nobody's business any more. The next
        # copy into the slot comes behind it in the same stream.
        self.travelling: weakref.ref[Travelling] | None = None

    def empty(self) -> None:
        travelling = None if self.travelling is None else self.travelling()
        if travelling is not None:
            travelling.deliver()
        self.travelling = None


class StagingRing:
    """2 to 4 slots, used in turn.

    Args:
        transport: of the device.
        slots: how many states may travel at a time.
    """

    def __init__(self, transport: Transport, slots: int = 3) -> None:
        if not 2 <= slots <= 4:
            raise ValueError(f"slots: got {slots}; it takes 2 to 4.")
        self._transport = transport
        self._slots = [_Slot() for _ in range(slots)]
        self._turn = 0
        self._pinned = True

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(slot.buffer.nbytes for slot in self._slots if slot.buffer is not None)

    def send(self, state: EngineState) -> Travelling:
        """Set a state on its way.

        Args:
            state: its tensors are copies on the device, which nobody else changes.
        """
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        slot.empty()
        sources = [state.psi, *state.hidden]
        targets = _carve(self._buffer(slot, sources), sources)
        event = self._transport.send(list(zip(targets, sources, strict=True)))
        travelling = Travelling(state, targets, event)
        slot.travelling = weakref.ref(travelling)
        return travelling

    def close(self) -> None:
        """Wait for all that travels, and let the slots go."""
        for slot in self._slots:
            slot.empty()
            slot.buffer = None

    def _buffer(self, slot: _Slot, sources: Sequence[Tensor]) -> Tensor:
        needed = sum(_aligned(source.nbytes) for source in sources)
        if slot.buffer is None or slot.buffer.nbytes < needed:
            slot.buffer = None  # before the larger one is made
            slot.buffer = self._allocate(1 << (needed - 1).bit_length())
        return slot.buffer

    def _allocate(self, nbytes: int) -> Tensor:
        if self._pinned:
            try:
                return self._transport.pinned(nbytes)
            except RuntimeError as error:
                self._pinned = False
                warnings.warn(
                    f"No pinned memory for snapshots ({error}); their copies go through pageable "
                    "memory, and stepping waits for them.",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return torch.empty(nbytes, dtype=torch.uint8)


def _carve(buffer: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like the sources, one behind the other in a slot."""
    targets, offset = [], 0
    for source in sources:
        piece = buffer[offset : offset + source.nbytes]
        targets.append(piece.view(source.dtype).view(source.shape))
        offset += _aligned(source.nbytes)
    return targets


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64
