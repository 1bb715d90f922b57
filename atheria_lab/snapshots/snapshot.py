"""A saved state of an engine, as the store hands it out."""

from __future__ import annotations

import html
from collections.abc import Callable

from torch import Tensor

from atheria_lab.engine import Engine, EngineState
from atheria_lab.memory import format_size
from atheria_lab.snapshots.entry import Entry, Tier


class Snapshot:
    """One state of a :class:`SnapshotStore`.

    What it is made of is read when it is first asked for, checked, copied, and kept as long as
    this object lives: to look at many, one after the other, let each go.

    Attributes:
        step: steps done.
        shape: of psi, ``(B, H, W, d_state)``.
    """

    def __init__(self, entry: Entry, read: Callable[[Entry], EngineState]) -> None:
        self._entry = entry
        self._read = read
        self._state: EngineState | None = None
        self.step = entry.step
        self.shape = entry.shape

    @property
    def psi(self) -> Tensor:
        """The state, complex ``[B, H, W, d_state]``, a copy on the CPU.

        Raises:
            LookupError: the store has released it.
            DamagedSnapshotError: its file is gone, or is not what was written.
        """
        return self.state().psi

    @property
    def hidden(self) -> tuple[Tensor, ...]:
        """Copies of a recurrent law's hidden tensors on the CPU; empty for any other."""
        return self.state().hidden

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self._entry.nbytes

    @property
    def tier(self) -> Tier | None:
        """Where it is read from: "device", "host", "disk"; ``None`` once it is released."""
        return None if self._entry.released else self._entry.tier

    def state(self) -> EngineState:
        """All that :meth:`Engine.restore` takes."""
        if self._state is None:
            self._state = self._read(self._entry)
        return self._state

    def read(self) -> EngineState:
        """The same, without keeping it."""
        return self._read(self._entry) if self._state is None else self._state

    def restore(self, engine: Engine) -> None:
        """Let an engine go on from here, bit for bit as the saved one would.

        Raises:
            ValueError: the snapshot is of another law, seed, lattice or precision.
        """
        engine.restore(self.read())

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        where = "released" if self.tier is None else f"on {self.tier}"
        return f"Snapshot(step {self.step}, psi {shape}, {format_size(self.nbytes)}, {where})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"
