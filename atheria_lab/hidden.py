"""When a recurrent law's hidden tensors start anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from atheria_lab._checks import integer


@dataclass(frozen=True)
class ResetHidden:
    """When a recurrent law's hidden tensors start anew: with zeros, no gradient through.

    An episode is one rollout, or what an engine does from one ``restart`` to the next.
    Make one with ``never()``, ``every(n)`` or ``episode()``.

    Attributes:
        steps: before each step whose index is a positive multiple of it; ``None``: not inside
            an episode.
        between: whether also when an episode begins.
    """

    steps: int | None
    between: bool = True

    @classmethod
    def never(cls) -> Self:
        """Not after the first start: an engine carries them over into its next episodes.

        A :class:`~atheria_lab.Trainer` refuses it: an episode would depend on all before it, and
        a saved run could not go on as it would have.
        """
        return cls(None, between=False)

    @classmethod
    def every(cls, n: int) -> Self:
        """Every n steps, and when an episode begins."""
        return cls(integer("n", n))

    @classmethod
    def episode(cls) -> Self:
        """When an episode begins, and not inside it; the default."""
        return cls(None)

    @classmethod
    def of(cls, reset_every: int | ResetHidden | None) -> ResetHidden:
        """The policy that a ``reset_every`` means: ``None`` is ``episode()``, n is ``every(n)``."""
        if isinstance(reset_every, ResetHidden):
            return reset_every
        if reset_every is None:
            return cls.episode()
        return cls(integer("reset_every", reset_every))

    def before(self, i: int) -> bool:
        """Whether they start anew before step i."""
        return self.steps is not None and i > 0 and i % self.steps == 0

    def __repr__(self) -> str:
        if not self.between:
            return "ResetHidden.never()"
        return "ResetHidden.episode()" if self.steps is None else f"ResetHidden.every({self.steps})"
