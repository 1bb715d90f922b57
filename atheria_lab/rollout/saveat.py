"""Which states of a rollout are returned: the subsampling of psi_history."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from atheria_lab._checks import integer

_Rule = Literal["last", "every", "at_most", "indices", "all"]


@dataclass(frozen=True)
class SaveAt:
    """A rule that picks states by how many steps were done: 0 is the initial state.

    Made by :meth:`last`, :meth:`every`, :meth:`at_most`, :meth:`indices` or :meth:`all`.
    """

    rule: _Rule
    numbers: tuple[int, ...] = ()

    @classmethod
    def last(cls) -> SaveAt:
        """The final state only."""
        return cls("last")

    @classmethod
    def every(cls, k: int) -> SaveAt:
        """The states after k, 2k, ... steps; the final one too if k divides the steps."""
        return cls("every", (integer("k", k),))

    @classmethod
    def at_most(cls, n: int) -> SaveAt:
        """N states spread evenly, the final one always; every state if the steps are fewer."""
        return cls("at_most", (integer("n", n),))

    @classmethod
    def indices(cls, indices: Iterable[int]) -> SaveAt:
        """The states after these numbers of steps, in rising order, each once."""
        wanted = sorted({integer("indices", index, least=0) for index in indices})
        if not wanted:
            raise ValueError("indices: got none; it takes at least one.")
        return cls("indices", tuple(wanted))

    @classmethod
    def all(cls) -> SaveAt:
        """Every state, the initial one included."""
        return cls("all")

    def resolve(self, steps: int) -> tuple[int, ...]:
        """The indices for a rollout of ``steps`` steps, rising.

        Raises:
            ValueError: an index is beyond the steps, or the rule picks no state at all.
        """
        integer("steps", steps)
        picked = tuple(self._pick(steps))
        if not picked:
            raise ValueError(f"save_at: {self!r} picks no state of {steps} steps.")
        if picked[-1] > steps:
            raise ValueError(
                f"save_at: got index {picked[-1]}; a rollout of {steps} steps has states 0 to "
                f"{steps}."
            )
        return picked

    def _pick(self, steps: int) -> Iterable[int]:
        match self.rule:
            case "last":
                return (steps,)
            case "every":
                return range(self.numbers[0], steps + 1, self.numbers[0])
            case "at_most":
                count = min(self.numbers[0], steps)
                return (steps * (j + 1) // count for j in range(count))
            case "indices":
                return self.numbers
            case "all":
                return range(steps + 1)

    def __repr__(self) -> str:
        if self.rule != "indices":
            return f"SaveAt.{self.rule}({', '.join(map(str, self.numbers))})"
        more = ", …" if len(self.numbers) > 6 else ""
        return f"SaveAt.indices([{', '.join(map(str, self.numbers[:6]))}{more}])"
