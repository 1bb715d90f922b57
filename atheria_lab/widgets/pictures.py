"""Pictures of states and of bytes, as PNG: readable on light and on dark pages."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from atheria_lab.lattice import density, phase
from atheria_lab.memory import format_size
from atheria_lab.training.comparison import Row

# A grey that stands out on white and on black alike.
INK = "#808890"
_PREDICTED, _MEASURED, _LIMIT = "#9db8d9", "#2f6db3", "#d9534f"


def psi_figure(psi: Tensor) -> Figure:
    """Density and phase of the first lattice of psi ``[B, H, W, d_state]``.

    The phase is that of channel 0, in cyclic colours, faded where the channel is weak.
    """
    rho = density(psi)[0].cpu().numpy()
    angle = phase(psi)[0].cpu().numpy()
    strength = psi[0, ..., 0].abs().cpu().numpy()
    strength = strength / max(float(strength.max()), 1e-12)
    figure = Figure(figsize=(5.8, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    # A range for the colours even where the density is flat, as the norm "cell" makes it.
    top = max(float(rho.max()), 1e-12)
    bottom = min(float(rho.min()), 0.9 * top)
    shown = left.imshow(rho, cmap="magma", vmin=bottom, vmax=top, interpolation="nearest")
    turned = right.imshow(
        angle, cmap="twilight", vmin=-np.pi, vmax=np.pi, alpha=0.25 + 0.75 * strength,
        interpolation="nearest",
    )  # fmt: skip
    for axes, picture, title in ((left, shown, "density"), (right, turned, "phase, channel 0")):
        axes.set_title(title, color=INK, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        bar = figure.colorbar(picture, ax=axes, shrink=0.85)
        grey(bar.ax)
        bar.outline.set_visible(False)
        axes.spines[:].set_visible(False)
    bar.set_ticks([-np.pi, 0, np.pi], labels=["-π", "0", "π"])
    return figure


def bytes_figure(rows: Sequence[Row], budget: int | None = None) -> Figure:
    """Bars of predicted and measured peaks on a logarithmic axis, with the budget as a line."""
    figure = Figure(figsize=(7.2, 0.75 + 0.75 * len(rows)), layout="constrained")
    axes = figure.subplots()
    sizes = [size for row in rows for size in (row.predicted_bytes, row.measured_bytes) if size]
    left = min([*sizes, budget or sizes[0]]) / 4
    for place, row in enumerate(rows):
        for shift, size, colour, name in (
            (0.19, row.predicted_bytes, _PREDICTED, "predicted"),
            (-0.19, row.measured_bytes, _MEASURED, "measured"),
        ):
            y = len(rows) - 1 - place + shift
            text = "not measured" if size is None else f"{format_size(size)} {name}"
            end = size or left
            axes.barh(y, end - left, left=left, height=0.34, color=colour)
            axes.annotate(
                text, (end, y), xytext=(5, 0), textcoords="offset points", va="center",
                fontsize=9, color=INK,
            )  # fmt: skip
    if budget is not None:
        axes.axvline(budget, color=_LIMIT, linewidth=1.5, linestyle=(0, (4, 2)))
        axes.annotate(
            f"budget {format_size(budget)}", (budget, len(rows) - 0.45), xytext=(4, 0),
            textcoords="offset points", fontsize=9, color=_LIMIT, va="bottom",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(left, max([*sizes, budget or 0]) * 12)
    axes.set_ylim(-0.55, len(rows) - 0.25)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)], fontsize=10)
    ticks = _size_ticks(left, max([*sizes, budget or 0]) * 3)
    axes.set_xticks(ticks, [format_size(tick).replace(".0", "") for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("peak of an episode: rollout, loss and backward pass", color=INK, fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    grey(axes)
    return figure


def png(figure: Figure, *, dpi: int = 130) -> bytes:
    """The figure as a PNG with a transparent ground."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).figure.savefig(buffer, format="png", dpi=dpi, transparent=True)
    return buffer.getvalue()


def grey(axes: Axes) -> None:
    """Ticks and frame in the grey that is readable on light and on dark pages."""
    axes.tick_params(colors=INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_edgecolor(INK)


def _size_ticks(low: float, high: float) -> list[int]:
    ticks = [2 ** (4 * power) for power in range(2, 13)]
    return [tick for tick in ticks if low <= tick <= high]
