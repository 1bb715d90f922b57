"""Progress of what takes long: a bar, or a function of the caller's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

Progress = Callable[[int, int], None]


@contextlib.contextmanager
def bar(total: int, unit: str) -> Iterator[Any]:
    """A bar of tqdm.

    Raises:
        ImportError: tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            "progress: a bar needs tqdm: pip install 'atheria-lab[train]'; or give False."
        ) from None
    with tqdm(total=total, unit=unit) as shown:
        yield shown


@contextlib.contextmanager
def reporting(progress: bool | Progress, n: int) -> Iterator[Callable[[int], None] | None]:
    """``report(done)`` for what the caller gave as progress; ``None`` for ``False``."""
    if progress is False:
        yield None
    elif progress is True:
        with bar(n, "step") as shown:
            yield lambda done: _advance(shown, done)
    elif callable(progress):
        yield lambda done: progress(done, n)
    else:
        raise TypeError(f"progress: got {progress!r}; it takes a bool or a function of (done, n).")


def _advance(shown: Any, done: int) -> None:
    shown.update(done - shown.n)
