"""ConvLSTMUNet: a U-Net whose bottom remembers."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn

from atheria_lab.laws.base import RecurrentLaw
from atheria_lab.laws.unet import UNet


class ConvLSTMCell(nn.Module):
    """A convolutional LSTM cell with periodic boundaries, without peepholes.

    Shi et al., "Convolutional LSTM network", NeurIPS 2015, equation 3. The bias of the forget
    gate starts at 1 (Jozefowicz, Zaremba & Sutskever, ICML 2015).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.gates = nn.Conv2d(inputs + outputs, 4 * outputs, 3, padding=1, padding_mode="circular")

    def remember_at_first(self) -> None:
        """Open the forget gate: its bias is 1."""
        assert self.gates.bias is not None
        nn.init.ones_(self.gates.bias[self.outputs : 2 * self.outputs])

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """``x [B, inputs, H, W]`` and ``h, c [B, outputs, H, W]`` to the next ``h, c``."""
        update, forget, output, candidate = self.gates(torch.cat([x, h], dim=1)).chunk(4, dim=1)
        c = forget.sigmoid() * c + update.sigmoid() * candidate.tanh()
        return output.sigmoid() * c.tanh(), c


class ConvLSTMUNet(UNet, RecurrentLaw):
    """A :class:`UNet` whose bottom is a ConvLSTM; it carries ``hidden = (h, c)``.

    Inside a rollout the gradient flows through ``hidden`` from step to step. Who starts a
    rollout starts it from ``initial_hidden``: nothing is kept in the module.

    Its light cone is that of the U-Net: the gates are a 3x3 convolution at the bottom.

    Args:
        d_state: complex amplitudes in a cell.
        hidden: channels of the finest level; each level below has twice as many.
        levels: how often the lattice is halved; its sides must be multiples of ``2**levels``.
        activation: "silu", "relu", "gelu" or "tanh".
    """

    bottom: ConvLSTMCell

    def __init__(
        self, d_state: int, hidden: int = 16, levels: int = 2, activation: str = "silu"
    ) -> None:
        super().__init__(d_state, hidden, levels, activation)
        self.bottom.remember_at_first()

    def _bottom(self, inputs: int, outputs: int, activation: str) -> nn.Module:
        return ConvLSTMCell(inputs, outputs)

    def initial_hidden(self, x: Tensor) -> tuple[Tensor, ...]:
        """Zeros ``(h, c)``, each ``[B, hidden * 2**levels, H / 2**levels, W / 2**levels]``."""
        self.check_sides(x)
        factor = 2**self.levels
        shape = (x.shape[0], self.bottom.outputs, x.shape[2] // factor, x.shape[3] // factor)
        return x.new_zeros(shape), x.new_zeros(shape)

    @overload
    def forward(self, x: Tensor) -> Tensor: ...
    @overload
    def forward(
        self, x: Tensor, hidden: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]: ...
    def forward(
        self, x: Tensor, hidden: tuple[Tensor, ...] | None = None
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """The change ``[B, 2 * d_state, H, W]``; with ``hidden`` also the next hidden."""
        x, skips = self.descend(x)
        h, c = self.bottom(x, *(hidden if hidden is not None else self._zeros(x)))
        change = self.ascend(h, skips)
        return change if hidden is None else (change, (h, c))

    def _zeros(self, x: Tensor) -> tuple[Tensor, Tensor]:
        zeros = x.new_zeros((x.shape[0], self.bottom.outputs, *x.shape[2:]))
        return zeros, zeros
