"""Bytes and seconds, as people write and read them."""

from __future__ import annotations

import operator
import re
from fractions import Fraction

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def parse_size(size: int | str, *, name: str = "size") -> int:
    """Bytes from a number of bytes or a text such as "512 MiB" or "1.5 GB".

    Args:
        size: bytes, or a number with B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB or TiB
            (powers of 1024).
        name: of the argument, for the error.

    Raises:
        TypeError: neither a whole number nor a text.
        ValueError: a text that is no size, an unknown unit, or less than one byte.
    """
    if isinstance(size, bool) or not (isinstance(size, str) or hasattr(size, "__index__")):
        raise TypeError(f'{name}: got {size!r}; it takes bytes or a text such as "512 MiB".')
    if not isinstance(size, str):
        count = operator.index(size)
    else:
        match = _PATTERN.fullmatch(size)
        if match is None or match[2].lower() not in _UNITS:
            raise ValueError(
                f'{name}: got {size!r}; it takes bytes or a text such as "512 MiB" '
                "(B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)."
            )
        count = int(Fraction(match[1]) * _UNITS[match[2].lower()])
    if count < 1:
        raise ValueError(f"{name}: got {size!r}; it takes at least one byte.")
    return count


def format_size(count: int) -> str:
    """A number of bytes for reading: "64.0 MiB", "1.5 GiB", "312 B"."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1023.95:  # above, it would read 1024.0
            break
        value, unit = value / 1024, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """A duration for reading: "0.94 s", "24 s", "3.5 min", "2.1 h", "12 days"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    value, unit = seconds, "s"
    for size, larger in ((60, "min"), (60, "h"), (24, "days")):
        if value < 1.5 * size:
            break
        value, unit = value / size, larger
    return f"{value:.0f} {unit}" if unit == "s" else f"{value:.1f} {unit}"
