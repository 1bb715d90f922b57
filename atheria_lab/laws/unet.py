"""UNet: many scales at once, and still a finite light cone."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor, nn

from atheria_lab._checks import integer
from atheria_lab.laws.base import (
    ACTIVATIONS,
    Law,
    check_activation,
    check_channels,
    start_without_biases,
)


class Block(nn.Module):
    """A 3x3 convolution with periodic boundaries, layer norm within each cell, activation.

    The norm looks at the channels of one cell only. One over the whole lattice (batch,
    instance or group norm) would let every cell feel every other at once.
    """

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")
        self.norm = nn.LayerNorm(outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        cells = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return ACTIVATIONS[self.activation](cells).permute(0, 3, 1, 2)


class UNet(Law):
    """A U-Net (Ronneberger, Fischer & Brox, MICCAI 2015) on a torus.

    Each level: a :class:`Block`, then the mean over 2x2 cells; at the bottom a block; on the way
    back each value is repeated over its 2x2 cells, joined with the level's own, and a block
    follows. A 1x1 convolution ends it.

    Light cone: a block reaches 1 cell of its own level; a mean and a repetition around a level
    of reach ``r`` reach ``2 r + 1``. So ``r_bottom = 1`` and ``r = 1 + (2 r_below + 1) + 1``:
    5 for one level, 13 for two, 29 for three.

    Args:
        d_state: complex amplitudes in a cell.
        hidden: channels of the finest level; each level below has twice as many.
        levels: how often the lattice is halved; its sides must be multiples of ``2**levels``.
        activation: "silu", "relu", "gelu" or "tanh".
    """

    def __init__(
        self, d_state: int, hidden: int = 16, levels: int = 2, activation: str = "silu"
    ) -> None:
        hidden, levels = integer("hidden", hidden), integer("levels", levels)
        check_activation(activation)
        super().__init__(d_state, hidden=hidden, levels=levels, activation=activation)
        self.levels = levels
        widths = [hidden * 2**level for level in range(levels + 1)]
        inputs = [2 * d_state, *widths[:-1]]
        self.down = nn.ModuleList(
            Block(inputs[level], widths[level], activation) for level in range(levels)
        )
        self.bottom = self._bottom(inputs[levels], widths[levels], activation)
        self.up = nn.ModuleList(
            Block(widths[level] + widths[level + 1], widths[level], activation)
            for level in range(levels)
        )
        self.outer = nn.Conv2d(hidden, 2 * d_state, 1)
        start_without_biases(self)

    def _bottom(self, inputs: int, outputs: int, activation: str) -> nn.Module:
        return Block(inputs, outputs, activation)

    @property
    def radius(self) -> int:
        """``8 * 2**(levels - 1) - 3``, the closed form of the recursion above."""
        return int(8 * 2 ** (self.levels - 1) - 3)

    @property
    def unit(self) -> int:
        """``2**levels``: the cells that the bottom sees as one."""
        return int(2**self.levels)

    def forward(self, x: Tensor) -> Tensor:
        """The proposed change, float ``[B, 2 * d_state, H, W]``."""
        x, skips = self.descend(x)
        return self.ascend(self.bottom(x), skips)

    def descend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The input of the bottom, and each level's own values, finest first."""
        check_channels(x, self.d_state)
        self.check_sides(x)
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        return x, skips

    def ascend(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """From the bottom's values back to the finest level."""
        for block in reversed(self.up):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, skips.pop()], dim=1))
        change: Tensor = self.outer(x)
        return change

    def check_sides(self, x: Tensor) -> None:
        """Refuse sides that cannot be halved ``levels`` times."""
        factor = 2**self.levels
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"x: got a lattice of {x.shape[2]}x{x.shape[3]} cells; {type(self).__name__} with "
                f"levels={self.levels} takes sides that are multiples of {factor}."
            )
