"""Conv: a cell and its eight neighbours."""

from __future__ import annotations

from torch import Tensor, nn

from atheria_lab._checks import integer
from atheria_lab.laws.base import (
    ACTIVATIONS,
    Law,
    check_activation,
    check_channels,
    start_without_biases,
)


class Conv(Law):
    """A 3x3 convolution with periodic boundaries, an activation, then a 1x1 convolution.

    The shape of the neural cellular automata of Gilpin, Phys. Rev. E 100, 032402 (2019).

    Args:
        d_state: complex amplitudes in a cell.
        hidden: channels between the two.
        activation: "silu", "relu", "gelu" or "tanh".
    """

    def __init__(self, d_state: int, hidden: int = 32, activation: str = "silu") -> None:
        hidden = integer("hidden", hidden)
        super().__init__(d_state, hidden=hidden, activation=check_activation(activation))
        self.activation = activation
        self.inner = nn.Conv2d(2 * d_state, hidden, 3, padding=1, padding_mode="circular")
        self.outer = nn.Conv2d(hidden, 2 * d_state, 1)
        start_without_biases(self)

    @property
    def radius(self) -> int:
        """1: the reach of a 3x3 kernel."""
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """The proposed change, float ``[B, 2 * d_state, H, W]``."""
        check_channels(x, self.d_state)
        change: Tensor = self.outer(ACTIVATIONS[self.activation](self.inner(x)))
        return change
