"""MLP: every cell for itself."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from atheria_lab._checks import integer
from atheria_lab.laws.base import (
    ACTIVATIONS,
    Law,
    check_activation,
    check_channels,
    start_without_biases,
)


class MLP(Law):
    """A perceptron with one hidden layer, the same in every cell (a chain of 1x1 convolutions).

    ``M(x) = W_2 f(W_1 x + b_1) + b_2`` with ``x`` the cell's ``2 * d_state`` real numbers.

    Args:
        d_state: complex amplitudes in a cell.
        hidden: width of the hidden layer.
        activation: ``f``: "silu", "relu", "gelu" or "tanh".
    """

    def __init__(self, d_state: int, hidden: int = 32, activation: str = "silu") -> None:
        hidden = integer("hidden", hidden)
        super().__init__(d_state, hidden=hidden, activation=check_activation(activation))
        self.activation = activation
        self.inner = nn.Linear(2 * d_state, hidden)
        self.outer = nn.Linear(hidden, 2 * d_state)
        start_without_biases(self)

    @property
    def radius(self) -> int:
        """0: a cell sees itself only."""
        return 0

    def forward(self, x: Tensor) -> Tensor:
        """The proposed change, float ``[B, 2 * d_state, H, W]``."""
        check_channels(x, self.d_state)
        cells = x.permute(0, 2, 3, 1)
        cells = cast(Tensor, self.outer(ACTIVATIONS[self.activation](self.inner(cells))))
        return cells.permute(0, 3, 1, 2)
