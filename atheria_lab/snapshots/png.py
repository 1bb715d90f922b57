"""A PNG of palette colours from zlib alone, so that a page needs nothing more."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def indexed_png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """The bytes of a PNG: W3C, "Portable Network Graphics", third edition (2025).

    Args:
        indices: uint8 ``[height, width]``.
        palette: uint8 ``[256, 3]``.
    """
    height, width = indices.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter, none
    rows[:, 1:] = indices
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes())),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
