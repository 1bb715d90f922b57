"""A sweep while it runs: a bar, or in a notebook a table and a figure that fill up."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from atheria_lab.progress import bar
from atheria_lab.scale.results import SweepResults

# Views that sweeps have shown: nobody else closes them, and a session may be long.
_MOST_VIEWS = 8
_VIEWS: deque[Any] = deque()


@contextlib.contextmanager
def following(
    results: SweepResults, progress: bool, link: str | None = None
) -> Iterator[Callable[[], None]]:
    """Show how far the results are, each time that what this yields is called.

    Args:
        results: they come one by one.
        progress: ``False``: nothing is shown.
        link: of a dashboard.

    Raises:
        ImportError: a bar needs tqdm.
    """
    if not progress:
        yield lambda: None
    elif _in_notebook():
        from IPython.display import display

        from atheria_lab.widgets.sweep_view import SweepView

        view = SweepView(results, link)
        _VIEWS.append(view)
        while len(_VIEWS) > _MOST_VIEWS:
            _VIEWS.popleft().close()
        display(view)
        try:
            yield view.refresh
        finally:
            view.finish()
    else:
        with bar(len(results), "training") as shown:
            shown.update(len(results.done))

            def advance() -> None:
                rated = [result.losses[-1] for result in results.done if result.losses]
                failed = f", {len(results.errors)} failed" if results.errors else ""
                if rated:
                    shown.set_postfix_str(f"best loss {min(rated):.4g}{failed}", refresh=False)
                shown.update(len(results.done) - shown.n)

            yield advance


def _in_notebook() -> bool:
    """Whether a kernel runs this, and widgets are installed."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel") and find_spec("anywidget") is not None
