"""One kept state, wherever it is now: the store, its snapshots and its writer share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atheria_lab.engine import EngineState
from atheria_lab.snapshots.files import Record
from atheria_lab.snapshots.staging import Travelling

Tier = Literal["device", "host", "disk"]


@dataclass(eq=False, slots=True)
class Entry:
    """A state and where its copies are; who changes it holds the store's lock.

    Attributes:
        step: steps done.
        nbytes: of the state's tensors.
        shape: of psi.
        state: the copy in host memory.
        travelling: the copy on its way there.
        record: the copy on disk.
        released: by the limit or the budget; nothing of it is left.
    """

    step: int
    nbytes: int
    shape: tuple[int, ...]
    state: EngineState | None = None
    travelling: Travelling | None = None
    record: Record | None = None
    released: bool = False

    @property
    def tier(self) -> Tier:
        """The fastest tier that has a copy."""
        if self.device_nbytes:
            return "device"
        return "host" if self.in_memory else "disk"

    @property
    def in_memory(self) -> bool:
        """Whether it takes host memory, or soon will."""
        return self.state is not None or self.travelling is not None

    @property
    def device_nbytes(self) -> int:
        """Bytes that it takes on the device."""
        return 0 if self.travelling is None else self.travelling.device_nbytes

    @property
    def host_nbytes(self) -> int:
        """Bytes that it takes in host memory."""
        return self.nbytes if self.in_memory and not self.device_nbytes else 0

    def release(self) -> None:
        """Let go of what is in memory; what is on disk is the writer's to remove."""
        self.released, self.state, self.travelling = True, None, None

    def settle(self) -> EngineState | None:
        """The copy in host memory, waited for if it is on its way; ``None`` if there is none."""
        if self.travelling is not None:
            self.state, self.travelling = self.travelling.deliver(), None
        return self.state
