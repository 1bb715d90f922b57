"""Colour maps from a formula, so that every picture, in Python or a browser, uses the same.

They are paths through OKLCH (lightness, chroma, hue), a space where equal distances look equally
different: B. Ottosson, "A perceptual color space for image processing" (2020).
"""

from __future__ import annotations

from functools import cache

import numpy as np

# OKLab to cone responses, and those (cubed) to linear sRGB: Ottosson (2020).
_TO_CONES = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@cache
def table(name: str) -> np.ndarray:
    """256 colours, uint8 ``[256, 3]`` (read-only).

    Args:
        name: "sequential": dark violet to light yellow, lightness rising evenly; "cyclic": a
            circle of hues of one lightness, which ends as it begins; "diverging": blue over
            dark to orange, for signed numbers.

    Raises:
        ValueError: an unknown name.
    """
    t = np.linspace(0.0, 1.0, 256)
    if name == "sequential":
        lightness, chroma, hue = 0.12 + 0.84 * t, 0.17 * np.sin(np.pi * t**0.8), 285 + 180 * t
    elif name == "cyclic":
        t = np.arange(256) / 256
        lightness, chroma, hue = np.full(256, 0.72), np.full(256, 0.125), 20 + 360 * t
    elif name == "diverging":
        side = 2 * t - 1
        lightness = 0.16 + 0.68 * np.abs(side)
        chroma = 0.14 * np.sin(0.78 * np.pi * np.abs(side))
        hue = np.where(side < 0, 245, 55)
    else:
        known = '"sequential", "cyclic", "diverging"'
        raise ValueError(f"name: got {name!r}; it takes one of {known}.")
    colours = _srgb(lightness, chroma, np.deg2rad(hue))
    colours.flags.writeable = False
    return colours


def _srgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
    linear = np.clip(_TO_RGB @ (_TO_CONES @ lab) ** 3, 0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: np.ndarray = np.round(255 * srgb.T).astype(np.uint8)
    return colours
