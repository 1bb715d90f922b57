"""A budget for any PyTorch code: it ends at the operator that goes over it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from atheria_lab.memory.sizes import format_size, parse_size
from atheria_lab.memory.track import Peak, track_peak


class OverBudgetError(RuntimeError):
    """A block made more bytes of tensors than it was given.

    Attributes:
        operator: that went over the budget.
    """

    def __init__(self, message: str, operator: str) -> None:
        super().__init__(message)
        self.operator = operator


class _Cap(TorchDispatchMode):
    def __init__(self, peak: Peak, budget: int) -> None:
        super().__init__()
        self._peak, self._budget = peak, budget

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        live = self._peak.live_bytes
        if live > self._budget:
            del out
            most = next(iter(self._peak.owners), "nobody")
            raise OverBudgetError(
                f"budget: {func} went to {format_size(live)}, over {format_size(self._budget)}. "
                f"The most of it belongs to {most!r}: free some, or give more.",
                str(func),
            )
        return out


@contextmanager
def cap(budget: int | str) -> Generator[Peak]:
    """Let a block make so many bytes of tensors at once and no more; any PyTorch code.

    ::

        with al.memory.cap("512 MiB") as peak:
            model(x).square().mean().backward()

    The operator that goes over the budget raises, and its result is freed.

    Args:
        budget: bytes, or "512 MiB", over what is live when the block begins.

    Yields:
        A :class:`~atheria_lab.memory.Peak`.

    Raises:
        OverBudgetError: the block wants more.
    """
    size = parse_size(budget, name="budget")
    with track_peak() as peak, _Cap(peak, size):
        yield peak
