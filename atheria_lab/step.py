"""The step: how a law moves a state, once.

``psi' = normalise((1 - gamma) * psi + M(psi))``, then noise; a unitary law replaces the
update, ``psi' = U psi``, then noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from atheria_lab._checks import integer, number
from atheria_lab.hidden import ResetHidden
from atheria_lab.lattice import (
    Norm,
    check_norm,
    check_psi,
    from_channels,
    normalise,
    to_channels,
)
from atheria_lab.laws.base import Law, RecurrentLaw, UnitaryLaw
from atheria_lab.noise import WHOLE, Noise, Part


class LatticeState(NamedTuple):
    """What a step takes and returns, a pytree of tensors.

    Attributes:
        psi: complex ``[B, H, W, d_state]``.
        hidden: the hidden tensors of a recurrent law; empty for any other.
    """

    psi: Tensor
    hidden: tuple[Tensor, ...] = ()


class Step:
    """``step(state, i)``: the state after step ``i`` (0-based), differentiable.

    It takes a :class:`LatticeState`, or psi alone where the law carries no hidden tensors,
    and returns the same kind.

    Args:
        law: takes float ``[B, 2 * d_state, H, W]`` and returns the same shape.
        gamma: the part of psi that decays in a step, 0 to 1. Unitary laws do not use it.
        norm: "lattice", "cell" or "none"; by default "lattice", and "none" for a unitary law,
            which keeps the norm by itself and takes no other.
        noise: applied after each step.
        seed: of the noise.
        reset_every: when a recurrent law's hidden tensors start anew (zeros, no gradient
            through): before each step whose index is a positive multiple of it; ``None``: never
            inside a rollout; or a :class:`~atheria_lab.hidden.ResetHidden`.
        part: where psi lies in a larger one, by whose cells the noise is counted.
    """

    def __init__(
        self,
        law: nn.Module,
        *,
        gamma: float = 0.01,
        norm: Norm | None = None,
        noise: Noise | None = None,
        seed: int = 0,
        reset_every: int | ResetHidden | None = None,
        part: Part = WHOLE,
    ) -> None:
        if not isinstance(law, nn.Module):
            raise TypeError(f"law: got {type(law).__name__}; it takes a torch.nn.Module.")
        self.law = law
        self.unitary = bool(getattr(law, "unitary", False))
        self.recurrent = bool(getattr(law, "recurrent", False))
        self.gamma = number("gamma", gamma, least=0.0, most=1.0)
        self.norm: Norm = norm if norm is not None else ("none" if self.unitary else "lattice")
        check_norm(self.norm)
        if self.unitary and self.norm != "none":
            raise ValueError(
                f"norm: got {norm!r} for {type(law).__name__}, which is unitary and keeps the "
                'norm by itself; it takes "none" (the default).'
            )
        if reset_every is not None and not self.recurrent:
            raise ValueError(
                f"reset_every: got {reset_every} for {type(law).__name__}, which carries no "
                "hidden tensors; leave it out."
            )
        self.resets = ResetHidden.of(reset_every)
        if noise is not None and not isinstance(noise, Noise):
            raise TypeError(
                f"noise: got {type(noise).__name__}; it takes a Noise (of a Ramp, one episode's: "
                "ramp.at(episode))."
            )
        self.noise = noise or Noise()
        self.seed = integer("seed", seed, least=0)
        self.part = part

    @property
    def reset_every(self) -> int | None:
        """Steps between two fresh starts of the hidden tensors; ``None``: none inside a rollout."""
        return self.resets.steps

    def initial(self, psi: Tensor) -> LatticeState:
        """The state that a rollout or an engine starts from: psi, and fresh hidden tensors."""
        d_state = self.law.d_state if isinstance(self.law, Law) else None
        check_psi(psi, d_state=d_state)
        return LatticeState(psi, self.fresh_hidden(psi))

    def __call__(self, state: Any, i: int) -> Any:
        """The state after step ``i``."""
        if i == 0:
            self._check_kind(state.psi if isinstance(state, LatticeState) else state)
        if isinstance(state, Tensor):
            self._check_hidden(())
            return self._noisy(self._update(state), i)
        if not isinstance(state, LatticeState):
            raise TypeError(f"state: got {type(state).__name__}; it takes psi or a LatticeState.")
        psi, hidden = state
        if not self.recurrent:
            return LatticeState(self._noisy(self._update(psi), i), hidden)
        if self.resets.before(i):
            hidden = self.fresh_hidden(psi)
        self._check_hidden(hidden)
        change, hidden = self._ask(to_channels(psi), hidden)
        return LatticeState(self._noisy(self._blend(psi, change), i), hidden)

    @property
    def inverse(self) -> Any:
        """``inverse(state, i)``, the state before step ``i``; only a unitary law has it.

        Raises:
            AttributeError: the law has no inverse.
        """
        if not self.unitary:
            raise AttributeError(f"{type(self.law).__name__} has no inverse: it is not unitary.")
        return self._inverse

    def _inverse(self, state: Any, i: int) -> Any:
        psi = state.psi if isinstance(state, LatticeState) else state
        psi = cast(UnitaryLaw, self.law).inverse(self._quiet(psi, i))
        return LatticeState(psi, state.hidden) if isinstance(state, LatticeState) else psi

    def _update(self, psi: Tensor) -> Tensor:
        if self.unitary:
            return cast(UnitaryLaw, self.law).evolve(psi)
        return self._blend(psi, self._ask(to_channels(psi)))

    def _blend(self, psi: Tensor, change: Tensor) -> Tensor:
        return normalise((1 - self.gamma) * psi + from_channels(change), self.norm)

    def _noisy(self, psi: Tensor, i: int) -> Tensor:
        return self.noise.apply(psi, seed=self.seed, step=i, part=self.part)

    def _quiet(self, psi: Tensor, i: int) -> Tensor:
        return self.noise.invert(psi, seed=self.seed, step=i, part=self.part)

    def _check_kind(self, psi: object) -> None:
        """Refuse what is no psi; a glance, as every rollout takes it."""
        if not isinstance(psi, Tensor):
            return  # told by whoever reads it
        if not psi.is_complex() or psi.dim() != 4:
            raise TypeError(
                f"psi: got {psi.dtype} of shape {tuple(psi.shape)}; it takes complex numbers "
                "[batch, height, width, d_state]. lattice.from_array makes them of any numbers."
            )

    def _ask(self, x: Tensor, *hidden: Any) -> Any:
        """What the law says to real channels; that it cannot read their precision, in words."""
        try:
            return self.law(x, *hidden)
        except RuntimeError as error:
            dtypes = {p.dtype for p in self.law.parameters() if p.is_floating_point()}
            if not dtypes or x.dtype in dtypes or "type" not in str(error):
                raise
            held = " and ".join(sorted(map(str, dtypes)))
            raise TypeError(
                f"psi: got parts in {x.dtype} for {type(self.law).__name__} in {held}; a float32 "
                "law takes complex64, a float64 law (law.double()) complex128."
            ) from error

    def _check_hidden(self, hidden: tuple[Tensor, ...]) -> None:
        if self.recurrent and not hidden:
            raise TypeError(
                f"state: got psi alone, but {type(self.law).__name__} carries hidden tensors; "
                "start from step.initial(psi)."
            )

    def fresh_hidden(self, psi: Tensor) -> tuple[Tensor, ...]:
        """Hidden tensors of a fresh start beside psi; empty where the law carries none."""
        if not self.recurrent:
            return ()
        return cast(RecurrentLaw, self.law).initial_hidden(to_channels(psi))
