"""The progress bar of a training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from atheria_lab.training.report import EpisodeReport


@contextlib.contextmanager
def progress_bar(episodes: int, progress: bool) -> Iterator[Callable[[EpisodeReport], None]]:
    """A bar that advances when it is called with a report; nothing at all without progress."""
    if not progress:
        yield lambda report: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=episodes, unit="episode") as bar:

        def advance(report: EpisodeReport) -> None:
            bar.set_postfix_str(f"loss {report.loss:.4g}", refresh=False)
            bar.update()

        yield advance
