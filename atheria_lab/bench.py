"""Bench: the one engine that a notebook works with, however often its law changes."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from atheria_lab._checks import instance
from atheria_lab._html import table
from atheria_lab.engine import Engine


class Bench:
    """Holds the current engine; loading a law closes the former one first.

    Two engines are so never in memory at once, and a variable, ``Out[]`` or a traceback that
    still holds the former one holds none of its bytes. The price: if the new law cannot be
    made, **the bench is empty**, and says so. (What is refused at sight, such as a law that is
    no module, leaves the former engine as it was.)

    Args:
        options: of every engine, see :class:`~atheria_lab.Engine`: ``gamma``, ``norm``, ...

    Example:
        >>> bench = Bench(gamma=0.01)
        >>> bench.load(lambda: MLP(d_state=8), psi)
        >>> bench.engine.step(100)
        >>> bench.load(lambda: UNet(d_state=8), psi)  # the MLP's engine is closed before
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._engine: Engine | None = None

    def load(
        self,
        law: nn.Module | Callable[[], nn.Module],
        psi: Tensor | Callable[[], Tensor],
        **options: Any,
    ) -> Engine:
        """An engine of this law, in the place of the former one.

        Args:
            law: a module; or a function that makes one, which is called after the former engine
                is closed, so that two laws are never in memory at once either.
            psi: where it starts, complex ``[B, H, W, d_state]``; or a function that makes it.
            options: of this engine, over those of the bench.

        Raises:
            TypeError, ValueError: as :class:`~atheria_lab.Engine` does, and whatever the
                functions raise; the bench is empty then.
        """
        made = "or a function that makes one"
        instance("law", law, nn.Module | Callable, f"a torch.nn.Module, {made}")
        instance("psi", psi, Tensor | Callable, f"a tensor, {made}")
        former = "" if self._engine is None else f" {self._engine!r} was closed first."
        self.close()
        try:
            law = law if isinstance(law, nn.Module) else law()
            psi = psi if isinstance(psi, Tensor) else psi()
            self._engine = Engine(law, psi, **{**self._options, **options})
        except BaseException as error:
            error.add_note(f"The bench is empty now.{former} Load a law that can be made.")
            del law, psi  # or the traceback keeps them
            raise
        return self._engine

    @property
    def engine(self) -> Engine:
        """The current engine.

        Raises:
            RuntimeError: there is none.
        """
        if self._engine is None or self._engine.closed:
            raise RuntimeError("This bench is empty: load(law, psi) puts an engine on it.")
        return self._engine

    @property
    def empty(self) -> bool:
        """Whether there is no engine on it."""
        return self._engine is None or self._engine.closed

    @property
    def nbytes(self) -> int:
        """Bytes of the engine's tensors, 0 if there is none."""
        return 0 if self._engine is None else self._engine.nbytes

    def close(self) -> None:
        """Close the engine; an empty bench stays as it is, and takes another law at any time."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return "Bench(empty)" if self.empty else f"Bench({self._engine!r})"

    def _repr_html_(self) -> str:
        if self._engine is None or self._engine.closed:
            return table("Bench", {"engine": "none: load(law, psi) puts one here"})
        return self._engine._repr_html_()
