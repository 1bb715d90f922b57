"""The contract of a law.

A law is an ``nn.Module`` that proposes the change of a state. It takes the state as real
channels, float ``[B, 2 * d_state, H, W]`` (all real parts, then all imaginary), and returns
the same shape. Any such module serves; those that derive from :class:`Law` can also be
saved by name, and tell how far a cell's influence reaches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor, nn

from atheria_lab._checks import integer
from atheria_lab.lattice import from_channels, to_channels

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": F.tanh,
}
_REGISTRY: dict[str, type[Law]] = {}


class Law(nn.Module):
    """A law that is known by name and rebuilt from its ``config``.

    Attributes:
        d_state: complex amplitudes in a cell.
        radius: cells of influence in one step: the new value of a cell depends on the cells
            at most ``radius`` rows and ``radius`` columns away, and on no other. The norm
            "lattice" multiplies all cells by one common number on top of that.
        recurrent: the law carries hidden tensors; then it is a :class:`RecurrentLaw`.
        unitary: the law replaces the update; then it is a :class:`UnitaryLaw`.
    """

    recurrent: ClassVar[bool] = False
    unitary: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _REGISTRY[cls.__name__] = cls

    def __init__(self, d_state: int, **config: Any) -> None:
        super().__init__()
        self.d_state = integer("d_state", d_state)
        self._config = {"d_state": self.d_state, **config}

    @property
    def radius(self) -> int:
        """Cells of influence in one step."""
        # Not an AttributeError, which nn.Module would replace by its own.
        raise NotImplementedError(f"{type(self).__name__} does not say its radius.")

    @property
    def unit(self) -> int:
        """Rows and columns after which the law repeats itself; sides are multiples of it.

        1 where every cell is treated alike; 2 for blocks of 2x2 cells.
        """
        return 1

    def config(self) -> dict[str, Any]:
        """The arguments that build this law again, as JSON can hold them."""
        return dict(self._config)

    def fingerprint(self) -> str:
        """A SHA-256 of the law's name, config and weights: 64 hexadecimal digits."""
        return fingerprint(self)

    def extra_repr(self) -> str:
        """The config, for the module's repr."""
        return ", ".join(f"{name}={value!r}" for name, value in self._config.items())


class RecurrentLaw(Law):
    """A law with hidden tensors: ``law(x, hidden) -> (change, hidden)``.

    ``law(x)`` alone starts from ``initial_hidden(x)`` and drops what comes back.
    """

    recurrent = True

    def initial_hidden(self, x: Tensor) -> tuple[Tensor, ...]:
        """Hidden tensors of a fresh start, for an input ``x`` ``[B, 2 * d_state, H, W]``."""
        raise NotImplementedError(f"{type(self).__name__} must define initial_hidden(x).")


class UnitaryLaw(Law):
    """A law that is the update itself, ``psi' = U psi``, with U unitary and its inverse known."""

    unitary = True

    def evolve(self, psi: Tensor) -> Tensor:
        """``U psi``, complex ``[B, H, W, d_state]``."""
        raise NotImplementedError(f"{type(self).__name__} must define evolve(psi).")

    def inverse(self, psi: Tensor) -> Tensor:
        """``U^-1 psi``, complex ``[B, H, W, d_state]``."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse(psi).")

    def forward(self, x: Tensor) -> Tensor:
        """``U psi`` on real channels, float ``[B, 2 * d_state, H, W]``."""
        check_channels(x, self.d_state)
        return to_channels(self.evolve(from_channels(x)))


def fingerprint(law: nn.Module) -> str:
    """A SHA-256 of a module's name, config and weights; equal only for equal laws."""
    digest = hashlib.sha256(type(law).__name__.encode())
    if isinstance(law, Law):
        digest.update(json.dumps(law.config(), sort_keys=True).encode())
    for name, tensor in sorted(law.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        numbers = tensor.detach().cpu().contiguous().view(-1)
        digest.update(numbers.view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return digest.hexdigest()


def build(name: str, config: dict[str, Any]) -> Law:
    """The law of this class name, from its ``config()``.

    Raises:
        ValueError: no class of that name is known (import the module that defines it first).
    """
    if name not in _REGISTRY:
        raise ValueError(
            f"law: got {name!r}; known are {', '.join(sorted(_REGISTRY))}. A law of your own is "
            "known once its class, derived from atheria_lab.laws.Law, is imported."
        )
    return _REGISTRY[name](**config)


def start_without_biases(law: nn.Module) -> None:
    """Set every bias to zero, so that at first nothing comes from nothing.

    The empty lattice is then a fixed point of the law, and a state is not drowned by a push
    that is the same in every cell.
    """
    for module in law.modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)


def check_activation(name: str) -> str:
    """Refuse an unknown activation with a ``ValueError``."""
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation: got {name!r}; it takes one of {', '.join(map(repr, ACTIVATIONS))}."
        )
    return name


def check_channels(x: Tensor, d_state: int) -> None:
    """Refuse what is not ``[B, 2 * d_state, H, W]`` with a ``ValueError``."""
    if x.dim() != 4 or x.shape[1] != 2 * d_state:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}; this law takes [B, {2 * d_state}, H, W] "
            f"(2 * d_state channels, d_state = {d_state})."
        )
