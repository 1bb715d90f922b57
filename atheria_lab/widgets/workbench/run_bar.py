"""The buttons of a workbench, and its keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import traitlets

from atheria_lab.widgets.live import LiveView, text

ACTIONS = ("train", "run", "step", "back", "pause", "stop", "reset")


class RunBar(LiveView):
    """Train, Run, Step, Pause, Stop, Reset; space and the arrows from anywhere in the bench.

    Args:
        on_action: called with one of ``ACTIONS``, on the thread that receives messages.

    Attributes:
        doing: "idle", "train" or "run".
        paused: what is done stands still.
        status: a line beside the buttons.
        speed: steps of a run between two pictures.
    """

    _esm = text("page.js", "workbench/run_bar.js")
    _css = text("workbench/run_bar.css")

    doing = traitlets.Enum(("idle", "train", "run"), "idle").tag(sync=True)
    paused = traitlets.Bool(False).tag(sync=True)
    status = traitlets.Unicode("").tag(sync=True)
    speed = traitlets.Int(1, min=1, max=1000).tag(sync=True)

    def __init__(self, on_action: Callable[[str], None], **traits: Any) -> None:
        self._on_action = on_action
        super().__init__(per_second=10, **traits)

    def heard(self, content: dict[str, Any]) -> None:
        if content.get("kind") == "do" and content.get("action") in ACTIONS:
            self._on_action(content["action"])
