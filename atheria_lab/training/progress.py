"""The progress bar of a training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from atheria_lab.progress import bar
from atheria_lab.training.report import EpisodeReport


@contextlib.contextmanager
def progress_bar(episodes: int, progress: bool) -> Iterator[Callable[[EpisodeReport], None]]:
    """A bar that advances when it is called with a report; nothing at all without progress."""
    if not progress:
        yield lambda report: None
        return
    with bar(episodes, "episode") as shown:

        def advance(report: EpisodeReport) -> None:
            shown.set_postfix_str(f"loss {report.loss:.4g}", refresh=False)
            shown.update()

        yield advance
