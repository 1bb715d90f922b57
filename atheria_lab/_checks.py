"""Checks of arguments that many rooms share. Each names the argument, what came and what goes."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any


def integer(name: str, value: object, *, least: float = 1, most: float = math.inf) -> int:
    """A whole number in ``[least, most]``: Python's, numpy's, any that is an index."""
    if isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}; it takes a whole number.")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # a TypeError is the answer
    except TypeError:
        raise TypeError(f"{name}: got {value!r}; it takes a whole number.") from None
    if number < least:
        raise ValueError(f"{name}: got {number}; it takes a whole number of at least {least}.")
    if number > most:
        raise ValueError(f"{name}: got {number}; it takes a whole number of at most {most}.")
    return number


def number(name: str, value: object, *, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite real number in ``[least, most]``: Python's or numpy's."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {value!r}; it takes a real number.")
    real = float(value)
    if not math.isfinite(real) or not least <= real <= most:
        raise ValueError(f"{name}: got {value!r}; it takes a number from {least:g} to {most:g}.")
    return real


def instance(name: str, value: object, kind: Any, words: str) -> None:
    """Something of a kind, which ``words`` describe."""
    if not isinstance(value, kind):
        text = repr(value)
        shown = text if len(text) < 80 else type(value).__name__
        raise TypeError(f"{name}: got {shown}; it takes {words}.")


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """One of some words."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}; it takes one of {', '.join(map(repr, allowed))}.")
    return value
