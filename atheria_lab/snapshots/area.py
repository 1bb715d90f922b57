"""Smaller pictures by area mean."""

from __future__ import annotations

import torch
from torch import Tensor


def area_mean(picture: Tensor, height: int, width: int) -> Tensor:
    """Each new pixel is the mean of what it covers, by overlapping area.

    Sizes need not divide: a pixel that lies under two new ones counts for both, by its parts, so
    the mean of the whole picture stays. NaN stays where it is.

    Args:
        picture: real ``[H, W]``.
        height: of the result, 1 to H.
        width: of the result, 1 to W.

    Returns:
        Real ``[height, width]``, of the same dtype and device.
    """
    if picture.shape[0] != height:
        picture = _rows(picture, height)
    if picture.shape[1] != width:
        picture = _rows(picture.T, width).T
    return picture


def _rows(picture: Tensor, height: int) -> Tensor:
    """The means of rows. In units of 1 / height of a row all ends are whole numbers."""
    old = picture.shape[0]
    start = torch.arange(height, device=picture.device)[:, None] * old
    end = start + old
    most = (old - 1) // height + 2  # rows that one new row touches
    rows = start // height + torch.arange(most, device=picture.device)
    # Past its end, a row it touches anyway, with no weight: NaN of others would come through.
    rows = rows.clamp(max=(end - 1) // height)
    inside = torch.minimum(end, (rows + 1) * height) - torch.maximum(start, rows * height)
    inside[:, 1:][rows[:, 1:] == rows[:, :-1]] = 0
    weights = inside.to(picture.dtype) / old
    return (picture[rows] * weights[..., None]).sum(dim=1)
