"""A law that leaves traces of who trained it, and that dies when it is told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import atheria_lab as al


class Telling(al.laws.MLP):
    """An MLP that writes a line to ``log`` when a worker trains it, and then does as ``how`` says.

    Args:
        log: a file; each training adds its line.
        how: "train"; "die once", "die always" (by SIGKILL, in the middle of a step); "fail";
            "wait" (0.7 s).
    """

    def __init__(self, d_state: int, log: str, how: str = "train") -> None:
        super().__init__(d_state, hidden=3)
        self._config = {"d_state": d_state, "log": log, "how": how}
        self.log, self.how = Path(log), how
        self.begun = False

    def forward(self, x: Any) -> Any:
        if not self.begun and multiprocessing.parent_process() is not None:
            self.begun = True
            with self.log.open("a") as file:
                file.write(f"{self.how}\n")
            self.act()
        return super().forward(x)

    def act(self) -> None:
        if self.how == "die always" or (
            self.how == "die once" and self.log.read_text().count(self.how) == 1
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "fail":
            raise RuntimeError("as it was told to")
        if self.how == "wait":
            time.sleep(0.7)
