"""Plans: how a rollout is stored, and recomputed for the backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from atheria_lab._checks import integer, number
from atheria_lab.rollout import binomial


@dataclass(frozen=True)
class Plan:
    """What all plans share.

    Attributes:
        exact: the gradient is that of plain autograd.
    """

    exact: ClassVar[bool] = True

    def forward_steps(self, steps: int, kept: Sequence[int] = ()) -> int:
        """How often the step is made in all, forward and backward pass together.

        Args:
            steps: of the rollout.
            kept: the indices of the states that are handed out.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward_steps.")


@dataclass(frozen=True)
class StoreAll(Plan):
    """Plain autograd: the graph of every step stays in memory. The fastest, and the largest."""

    def forward_steps(self, steps: int, kept: Sequence[int] = ()) -> int:
        """Each step once."""
        return steps


@dataclass(frozen=True)
class Checkpointed(Plan):
    """A plan that stores some states and recomputes what lies between them."""

    def block(self, steps: int) -> int:
        """Steps whose graphs are alive at once."""
        return 1

    def capacity(self, steps: int) -> int:
        """Checkpoints that may be stored at once, the initial state included."""
        raise NotImplementedError(f"{type(self).__name__} must define capacity.")

    def blocks(self, steps: int) -> int:
        """How many blocks the steps make; the last one may be shorter."""
        return math.ceil(steps / self.block(steps))

    def anchors(self, steps: int, kept: Sequence[int]) -> list[int]:
        """The blocks that start from a state which is there in any case: rising, 0 first."""
        return [0]

    def checkpoints(self, steps: int, kept: Sequence[int] = ()) -> list[int]:
        """The blocks at whose start the forward sweep stores the state: rising, 0 first."""
        blocks, anchors = self.blocks(steps), self.anchors(steps, kept)
        last = anchors[-1]
        left = blocks - last
        inside = binomial.sweep(left, min(self.capacity(steps), left))
        positions = [*anchors, *(last + position for position in inside[1:])]
        # The state in hand when the last block begins: no slot, but the reversal starts there.
        if positions[-1] != blocks - 1:
            positions.append(blocks - 1)
        return positions

    def forward_steps(self, steps: int, kept: Sequence[int] = ()) -> int:
        """The sweep, the advances between checkpoints, and each step once more with its graph.

        That is one more than Griewank & Walther count: the last step is made in the sweep too,
        since the loss wants the final state before anything can be reversed.
        """
        return self._forward_steps(steps, self.anchors(steps, kept))

    def _forward_steps(self, steps: int, anchors: Sequence[int]) -> int:
        ends = [*anchors[1:], self.blocks(steps)]
        lengths = [end - start for start, end in zip(anchors, ends, strict=True)]
        slots = self.capacity(steps)
        between = sum(binomial.advances(length, min(slots, length)) for length in lengths)
        return 2 * steps + (between - (lengths[-1] - 1)) * self.block(steps)


@dataclass(frozen=True)
class Segmented(Checkpointed):
    """A checkpoint every ``k`` steps; the backward pass recomputes k steps at a time.

    Every step is made twice. The memory is least near ``k = sqrt(steps * state / graph)``
    (Chen et al., "Training deep nets with sublinear memory cost", arXiv:1604.06174).
    """

    k: int

    def __post_init__(self) -> None:
        integer("k", self.k)

    def block(self, steps: int) -> int:
        """K."""
        return min(self.k, steps)

    def capacity(self, steps: int) -> int:
        """One for each segment."""
        return self.blocks(steps)


@dataclass(frozen=True)
class Binomial(Checkpointed):
    """At most ``slots`` checkpoints, placed so that the fewest steps are recomputed.

    The optimal schedule of Griewank & Walther, ACM TOMS 26 (2000). The initial state counts as
    a checkpoint; one more state, the one in hand, is alive while steps are made. The memory
    does not depend on the number of steps, the work grows with it slowly: ``slots`` checkpoints
    reverse ``C(slots + r, r)`` steps if no step is made more than r + 1 times.

    The saved states are checkpoints that cost nothing: where that takes fewer steps, the slots
    serve one stretch between two of them after the other.
    """

    slots: int

    def __post_init__(self) -> None:
        integer("slots", self.slots)

    def capacity(self, steps: int) -> int:
        """What was asked for, and never more than there are steps."""
        return min(self.slots, steps)

    def anchors(self, steps: int, kept: Sequence[int]) -> list[int]:
        """The initial state, and the saved ones if they help."""
        saved = [0, *(index for index in kept if 0 < index < steps)]
        return min([0], saved, key=lambda anchors: self._forward_steps(steps, anchors))


@dataclass(frozen=True)
class Tiered(Checkpointed):
    """:class:`Binomial` whose checkpoints live on the device, in host memory and on disk.

    The first checkpoints are the least read: they lie on disk, the next in host memory, the
    last on the device. Files are temporary, and go with the rollout.

    Attributes:
        device: checkpoints beside the state itself, the initial state included.
        host: checkpoints in the memory of the CPU (a copy even if the state lives there too).
        disk: checkpoints in files.
    """

    device: int = 1
    host: int = 0
    disk: int = 0

    def __post_init__(self) -> None:
        integer("device", self.device)
        integer("host", self.host, least=0)
        integer("disk", self.disk, least=0)

    def capacity(self, steps: int) -> int:
        """All tiers together."""
        return min(self.device + self.host + self.disk, steps)

    def tier(self, slot: int) -> str:
        """Where the checkpoint lies that is stored ``slot``-th (0 is the initial state)."""
        if slot == 0:
            return "device"  # the caller's own
        if slot <= self.disk:
            return "disk"
        return "host" if slot <= self.disk + self.host else "device"


@dataclass(frozen=True)
class Reversible(Plan):
    """No checkpoints: the backward pass makes each state again with the step's inverse.

    For a step with ``inverse(state, i)``. The memory is that of one step, whatever their
    number. Rounding makes the states come back not quite the same: they are compared with the
    saved ones and with the initial state, and replaced by them.

    Attributes:
        tolerance: the largest relative error of a state that comes back; beyond it the backward
            pass is refused. ``None`` means 1e-3 for 32-bit numbers, 1e-9 for 64-bit ones.
    """

    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None:
            number("tolerance", self.tolerance, least=0.0)

    def forward_steps(self, steps: int, kept: Sequence[int] = ()) -> int:
        """Forward, inverse, and once more with the graph."""
        return 3 * steps


@dataclass(frozen=True)
class Truncated(Plan):
    """AN APPROXIMATION: the gradient does not flow across the cuts, one every ``k`` steps.

    The cuts are counted back from the final state, which so feels exactly its last k steps; any
    other saved state feels the steps since the cut before it (truncated back-propagation through
    time, Williams & Peng, Neural Computation 2 (1990)). Segments without a saved state are not
    even recomputed.
    """

    exact: ClassVar[bool] = False

    k: int

    def __post_init__(self) -> None:
        integer("k", self.k)

    def start(self, index: int, steps: int) -> int:
        """The cut before the state ``index`` (at least 1): where its segment begins."""
        return max(0, steps - self.k * ((steps - index) // self.k + 1))

    def forward_steps(self, steps: int, kept: Sequence[int] = ()) -> int:
        """At most: every segment recomputed."""
        return 2 * steps

    def __repr__(self) -> str:
        return f"Truncated(k={self.k}, approximate)"
