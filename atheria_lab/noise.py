"""Noise that replays: the same (seed, step, cell, channel) gives the same number, always.

The numbers come from Philox4x32-10, a counter-based generator (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011): there is no state to save, so a step that is
recomputed for the backward pass sees the very noise of its first time, on any device.

Counter: ``(cell, channel // 4, step, stream)``; key: the seed. A cell is counted over the
whole batch, row by row. Lane ``channel % 4`` of the block belongs to the channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from atheria_lab._checks import integer, number

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_PHASE_STREAM, _SIGN_STREAM = 0, 1


class Part(NamedTuple):
    """Where a psi lies in a larger one, whose noise it takes a part of.

    Attributes:
        lattice: index of its first lattice in the whole batch.
        row: index of its first row in the whole lattice.
        height: rows of the whole lattice; ``None``: all of them are here.
    """

    lattice: int = 0
    row: int = 0
    height: int | None = None


WHOLE = Part()


@dataclass(frozen=True)
class Noise:
    """Noise after each step that leaves every density as it is.

    Attributes:
        phase: radians; each amplitude is turned by an angle uniform in ``[-phase, phase)``.
        sign: probability with which each amplitude changes its sign.
    """

    phase: float = 0.0
    sign: float = 0.0

    def __post_init__(self) -> None:
        number("phase", self.phase, least=0.0, most=math.pi)
        number("sign", self.sign, least=0.0, most=1.0)

    def __bool__(self) -> bool:
        """Whether it does anything at all."""
        return bool(self.phase > 0 or self.sign > 0)

    def at(self, episode: int) -> Noise:
        """Itself: this noise is the same in every episode."""
        return self

    def factor(self, psi: Tensor, *, seed: int, step: int, part: Part = WHOLE) -> Tensor:
        """The unit factors of one step, complex, of psi's shape, dtype and device."""
        angle = torch.zeros((), dtype=psi.real.dtype, device=psi.device)
        if self.phase > 0:
            angle = uniform(psi, seed=seed, step=step, stream=_PHASE_STREAM, part=part)
            angle = angle.mul_(2 * self.phase).sub_(self.phase)
        if self.sign > 0:
            flips = uniform(psi, seed=seed, step=step, stream=_SIGN_STREAM, part=part) < self.sign
            modulus = torch.ones_like(flips, dtype=psi.real.dtype).masked_fill_(flips, -1)
            return torch.complex(modulus * angle.cos(), modulus * angle.sin())
        return torch.complex(angle.cos(), angle.sin()).expand(psi.shape)

    def apply(self, psi: Tensor, *, seed: int, step: int, part: Part = WHOLE) -> Tensor:
        """Psi with the noise of this step; differentiable."""
        return psi * self.factor(psi, seed=seed, step=step, part=part) if self else psi

    def invert(self, psi: Tensor, *, seed: int, step: int, part: Part = WHOLE) -> Tensor:
        """Psi before the noise of this step."""
        return psi * self.factor(psi, seed=seed, step=step, part=part).conj() if self else psi


@dataclass(frozen=True)
class Ramp:
    """A curriculum: noise that grows evenly from ``start`` to ``end`` over some episodes.

    Attributes:
        end: the noise from episode ``episodes`` on.
        episodes: how many episodes the way takes.
        start: the noise of episode 0.
    """

    end: Noise
    episodes: int
    start: Noise = Noise()

    def __post_init__(self) -> None:
        integer("episodes", self.episodes)
        for name, noise in (("end", self.end), ("start", self.start)):
            if not isinstance(noise, Noise):
                raise TypeError(f"{name}: got {noise!r}; it takes a Noise.")

    def at(self, episode: int) -> Noise:
        """The noise of one episode."""
        if episode >= self.episodes:
            return self.end
        t = episode / self.episodes
        # In this form rounding cannot lead beyond the larger of the two.
        return Noise(
            phase=self.start.phase + t * (self.end.phase - self.start.phase),
            sign=self.start.sign + t * (self.end.sign - self.start.sign),
        )


def uniform(psi: Tensor, *, seed: int, step: int, stream: int, part: Part = WHOLE) -> Tensor:
    """Uniform numbers in ``[0, 1)``, 24 bits each, one for every amplitude of psi.

    Args:
        psi: ``[batch, height, width, d_state]``; only its shape, precision and device count.
        seed: 64 bits.
        step: index of the step, 56 bits.
        stream: 8 bits; streams are independent of each other.
        part: where psi lies in the whole that its cells are counted in.

    Returns:
        float32 for a complex64 psi, float64 for complex128, of psi's shape.
    """
    batch, height, width, d_state = psi.shape
    lattices = torch.arange(part.lattice, part.lattice + batch, device=psi.device)
    rows = torch.arange(part.row, part.row + height, device=psi.device)
    rows = lattices[:, None] * (part.height or height) + rows
    cells = rows[..., None] * width + torch.arange(width, device=psi.device)
    cells = cells.reshape(-1)
    blocks = torch.arange((d_state + 3) // 4, dtype=torch.int64, device=psi.device)
    words = philox(
        (cells[:, None] & _MASK, blocks[None, :], step & _MASK, stream | (step >> 32) << 8),
        (seed & _MASK, (seed >> 32) & _MASK),
    )
    lanes = torch.stack(words, dim=-1).flatten(1)[:, :d_state]
    return (lanes >> 8).to(psi.real.dtype).mul_(2.0**-24).reshape(psi.shape)


def philox(
    counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One block of Philox4x32-10: four words of 32 bits, kept in int64 tensors.

    Args:
        counter: four words of 32 bits, tensors (int64) or numbers, broadcast together.
        key: two words of 32 bits.

    Returns:
        Four int64 tensors with values in ``[0, 2**32)``.
    """
    c0, c1, c2, c3 = (torch.as_tensor(word, dtype=torch.int64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        # The product wraps in 64 bits, which keeps all of its low 64: what is needed.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, ((p0 >> 32) & _MASK) ^ c3 ^ k1
        c1, c3 = p1 & _MASK, p0 & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    c0, c1, c2, c3 = torch.broadcast_tensors(c0, c1, c2, c3)
    return c0, c1, c2, c3


def derive_seed(seed: int, *ids: int) -> int:
    """A seed of 63 bits for a part of a study, mixed from its own seed and some numbers.

    The mixer is splitmix64 (Steele, Lea & Flood, OOPSLA 2014), folded over the numbers.
    """
    state = seed & 0xFFFFFFFFFFFFFFFF
    for value in (*ids, 0):
        state = (state + 0x9E3779B97F4A7C15 * (value + 1)) & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
