"""Limits that act: make room past the soft one, refuse past the hard one, before it is too late."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import MethodType

import torch

from atheria_lab.memory import process
from atheria_lab.memory.limits import room_bytes
from atheria_lab.memory.sizes import format_size, parse_size

Spill = Callable[[int], int]

# Left to the rest of the process under the limits of the kernel: stacks, arenas, libraries.
_RESERVE = 64 * 2**20


class LimitError(RuntimeError):
    """What was asked for would go past a hard limit; nothing was allocated.

    Attributes:
        needed_bytes: that it would have added.
        room_bytes: that could have been.
    """

    def __init__(self, message: str, needed: int, room: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed
        self.room_bytes = room


class Limits:
    """How much this process may use, and what happens when it comes near.

    Past ``soft``, those who can are asked to free something (:meth:`on_pressure`: a snapshot
    store spills to disk), and a trainer takes a smaller plan. Past ``hard``, or past what the
    cgroup, resource limits or the machine leave, :meth:`check` refuses before anything is
    allocated.

    On the CPU what counts is the memory in use by the process, without what its heap keeps
    for later; on CUDA what the allocator has handed out.

    Args:
        soft: bytes, or "6 GiB"; ``None``: never make room.
        hard: likewise; ``None``: only what the system allows.
        device: whose memory: "cpu", or one of CUDA.

    Raises:
        ValueError: sizes that are none, or a soft limit over the hard one.
    """

    def __init__(
        self,
        soft: int | str | None = None,
        hard: int | str | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.soft = None if soft is None else parse_size(soft, name="soft")
        self.hard = None if hard is None else parse_size(hard, name="hard")
        if self.soft is not None and self.hard is not None and self.soft > self.hard:
            raise ValueError(
                f"soft: got {format_size(self.soft)}, over hard, {format_size(self.hard)}; it "
                "takes at most that."
            )
        self.device = torch.device(device)
        self._spills: list[Callable[[], Spill | None]] = []

    def used(self) -> int:
        """Bytes in use now; 0 where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        resident = process.resident() or 0
        return max(process.heap_in_use() or 0, resident - process.heap_kept())

    def room(self) -> int:
        """Bytes that may be added before something is refused."""
        rooms = [] if self.hard is None else [self.hard - self.used()]
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            kept = torch.cuda.memory_reserved(self.device) - self.used()
            rooms.append(free + kept)
        else:
            free = room_bytes()
            if free:
                rooms.append(free + process.heap_kept() - _RESERVE)
        return max(0, min(rooms, default=2**62))

    def comfort(self) -> int:
        """Bytes that may be added before the soft limit is passed; never more than the room."""
        room = self.room()
        return room if self.soft is None else max(0, min(room, self.soft - self.used()))

    def on_pressure(self, spill: Spill) -> None:
        """Ask ``spill(bytes)`` to free so many bytes when they are short; it returns how many
        it freed. Its owner is held weakly.
        """
        if isinstance(spill, MethodType):
            self._spills.append(weakref.WeakMethod(spill))
        else:
            self._spills.append(lambda: spill)

    def relieve(self, wanted: int) -> int:
        """Have some bytes freed by whoever can; how many were."""
        freed = 0
        for reference in list(self._spills):
            spill = reference()
            if spill is None:
                self._spills.remove(reference)
            elif freed < wanted:
                freed += spill(wanted - freed)
        return freed

    def make_room(self, needed: int) -> bool:
        """Whether so many bytes can be added without passing the soft limit, if others spill."""
        short = needed - self.comfort()
        if short > 0 and self.relieve(short):
            short = needed - self.comfort()
        return short <= 0

    def check(self, needed: int, what: str, advice: str) -> None:
        """Refuse what would go past the hard limit, before it allocates.

        Args:
            needed: bytes that it would add.
            what: it is, for the error.
            advice: what to change.

        Raises:
            LimitError: there is no room, even after others have spilled.
        """
        self.make_room(needed)
        room = self.room()
        if needed > room:
            raise LimitError(
                f"limits: {what} would add {format_size(needed)}, and {format_size(room)} are "
                f"left ({format_size(self.used())} in use, {self._hard_text()}). {advice}",
                needed,
                room,
            )

    def __repr__(self) -> str:
        soft = "none" if self.soft is None else format_size(self.soft)
        return f"Limits(soft={soft}, {self._hard_text()}, used {format_size(self.used())})"

    def _hard_text(self) -> str:
        return "hard: the system's" if self.hard is None else f"hard {format_size(self.hard)}"
