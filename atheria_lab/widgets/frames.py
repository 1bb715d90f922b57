"""What a view of psi sends to the browser: one or two planes of bytes, and their range."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

from atheria_lab.lattice import density

View = Literal["density", "phase", "modulus", "real", "imaginary", "domain", "S(k)"]

VIEWS: tuple[str, ...] = get_args(View)
_MOST_CELLS = 512  # along a side of a frame: more than a screen shows


class Frame(NamedTuple):
    """A picture of a state before it has colours.

    Attributes:
        planes: uint8 ``[1 or 2, height, width]``. One plane is a value, 0 to 255 from ``low`` to
            ``high``; two are an angle (0 to 255 from -pi to pi) and a strength.
        colours: "sequential", "diverging", "phase" or "domain".
        low: what 0 stands for.
        high: what 255 stands for.
    """

    planes: np.ndarray
    colours: str
    low: float
    high: float


@torch.no_grad()
def frame(psi: Tensor, view: str = "density", channel: int = 0, *, high: float = 0.0) -> Frame:
    """Picture the first lattice of psi ``[B, H, W, d_state]``.

    Args:
        psi: the state, on any device. A side of over 512 cells is averaged down.
        view: "density"; "phase", the angle of a channel, faded where it is weak; "modulus",
            "real" and "imaginary" of a channel; "domain", the angle as hue and the modulus as
            lightness; "S(k)", the logarithm of the density's power spectrum, k = 0 in the middle.
        channel: which one, where a view shows one.
        high: the top of the range is at least this, so that a live picture does not flicker.

    Raises:
        ValueError: an unknown view, or no such channel.
    """
    if view not in VIEWS:
        raise ValueError(f"view: got {view!r}; it takes one of {', '.join(map(repr, VIEWS))}.")
    if not 0 <= channel < psi.shape[-1]:
        raise ValueError(f"channel: got {channel}; psi has channels 0 to {psi.shape[-1] - 1}.")
    first = psi[:1].detach()
    if view == "density":
        return _scalar(_shrink(density(first)[0]), "sequential", high)
    if view == "S(k)":
        rho = density(first)[0]
        power = torch.fft.fftshift(torch.fft.fft2(rho - rho.mean()).abs().square() / rho.numel())
        return _scalar(_shrink(torch.log1p(power)), "sequential", high)
    amplitude = first[0, ..., channel].resolve_conj()
    if view in ("real", "imaginary"):
        part = amplitude.real if view == "real" else amplitude.imag
        return _scalar(_shrink(part), "diverging", high)
    if view == "modulus":
        return _scalar(_shrink(amplitude.abs()), "sequential", high)
    parts = torch.stack([_shrink(amplitude.real), _shrink(amplitude.imag)])
    modulus = torch.hypot(parts[0], parts[1])
    top = max(_top(modulus), high)
    angle = torch.atan2(parts[1], parts[0]) * (256 / (2 * torch.pi)) + 128
    planes = torch.stack([angle.nan_to_num() % 256, modulus.nan_to_num() * (255 / top)])
    colours = "phase" if view == "phase" else "domain"
    return Frame(_bytes(planes), colours, 0.0, top)


def _scalar(values: Tensor, colours: str, high: float) -> Frame:
    top = max(_top(values), high)
    low = -top if colours == "diverging" else 0.0
    plane = (values.nan_to_num() - low) * (255 / (top - low))
    return Frame(_bytes(plane[None]), colours, low, top)


def _top(values: Tensor) -> float:
    """The largest magnitude, a positive finite number."""
    top = float(values.abs().nan_to_num(posinf=0.0).max())
    return max(top, 1e-12)


def _bytes(planes: Tensor) -> np.ndarray:
    numbers: np.ndarray = planes.clamp(0, 255).to(torch.uint8).cpu().numpy()
    return numbers


def _shrink(plane: Tensor) -> Tensor:
    """At most 512 cells a side, each the mean of the area that it covers."""
    sides = min(plane.shape[0], _MOST_CELLS), min(plane.shape[1], _MOST_CELLS)
    if sides == tuple(plane.shape):
        return plane
    return F.adaptive_avg_pool2d(plane[None, None], sides)[0, 0]
