"""The controls of a workbench's settings, one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as ui

from atheria_lab.memory import format_size
from atheria_lab.widgets.parts import choice
from atheria_lab.widgets.workbench.settings import STARTS, Settings

_WIDTH = "270px"
_NAMES = {
    "d_state": "d_state",
    "lr": "learning rate",
    "keep": "kept states",
    "every": "snapshots at",
    "limit": "snapshots",
    "host_budget": "host budget",
    "entries": "log entries",
}
_VALUES: dict[str, tuple[Any, ...]] = {
    "size": (1, 8, 16, 32, 64, 128, 256, 512),
    "d_state": (1, 2, 4, 8, 16),
    "hidden": (4, 8, 16, 32, 64),
    "steps": (10, 25, 50, 100, 200, 400, 800, 1600),
    "keep": (1, 2, 3, 5, 10, 20, 50),
    "budget": tuple(2**power for power in range(18, 36)),
    "lr": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "every": (1, 2, 5, 10, 20, 50, 100, 1000),
    "limit": (5, 10, 20, 50, 100, 200, 500),
    "host_budget": tuple(2**power for power in range(16, 34)),
    "entries": (10, 50, 100, 500, 1000),
}
_SHOW: dict[str, Callable[[Any], str]] = {
    "size": lambda size: f"{size} x {size}",
    "budget": format_size,
    "host_budget": format_size,
    "lr": "{:g}".format,
    "every": lambda steps: f"every {steps}" if steps > 1 else "every step",
}
LAW_FIELDS = ("law", "hidden", "size", "d_state", "start", "gamma", "norm", "noise", "seed")
TRAINING_FIELDS = ("steps", "lr", "every")
LIMIT_FIELDS = ("budget", "keep", "limit", "host_budget", "entries")


class Form:
    """A control for every setting, by name.

    Args:
        settings: to begin with.
        laws: the names to choose from.
        on_change: called with the settings after each change, on the thread that receives
            messages.
    """

    def __init__(
        self, settings: Settings, laws: Iterable[str], on_change: Callable[[Settings], None]
    ) -> None:
        self.controls: dict[str, Any] = {
            "law": _list("law", list(laws), settings.law),
            "start": _list("start", list(STARTS), settings.start),
            "norm": _list("norm", ["lattice", "cell", "none"], settings.norm),
            "gamma": _float("gamma", settings.gamma, 0.5),
            "noise": _float("noise", settings.noise, 1.0),
            "seed": ui.BoundedIntText(value=settings.seed, min=0, max=2**31 - 1,
                                      description="seed", **_look()),
        }  # fmt: skip
        for name, values in _VALUES.items():
            value = getattr(settings, name)
            self.controls[name] = choice(
                _NAMES.get(name, name), sorted({*values, value}), value,
                _SHOW.get(name, str), width=_WIDTH,
            )  # fmt: skip
        self._on_change = on_change
        for control in self.controls.values():
            control.observe(self._changed, names="value")

    def __getitem__(self, name: str) -> Any:
        return self.controls[name]

    @property
    def settings(self) -> Settings:
        """What the controls say."""
        return Settings(**{name: control.value for name, control in self.controls.items()})

    def some(self, names: Iterable[str]) -> list[ui.Widget]:
        """These controls."""
        return [self.controls[name] for name in names]

    def _changed(self, _: object) -> None:
        self._on_change(self.settings)


def _look() -> dict[str, Any]:
    return {"layout": ui.Layout(width=_WIDTH), "style": {"description_width": "90px"}}


def _list(name: str, options: list[str], value: str) -> ui.Dropdown:
    return ui.Dropdown(options=options, value=value, description=name, **_look())


def _float(name: str, value: float, most: float) -> ui.FloatSlider:
    return ui.FloatSlider(
        value=value, min=0.0, max=most, step=0.005, description=name, readout_format=".3f",
        continuous_update=False, **_look(),
    )  # fmt: skip
