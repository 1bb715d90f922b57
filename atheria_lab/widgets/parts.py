"""What every bench of sliders is made of, and how it is taken apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ui


def choice(
    name: str,
    values: Sequence[Any],
    value: Any,
    show: Callable[[Any], str] = str,
    *,
    width: str = "350px",
) -> ui.SelectionSlider:
    """A labelled slider over these values.

    Raises:
        ValueError: ``value`` is none of them.
    """
    if value not in values:
        raise ValueError(f"{name}: got {value}; it takes one of {', '.join(map(str, values))}.")
    return ui.SelectionSlider(
        options=[(show(each), each) for each in values], value=value, description=name,
        continuous_update=False, layout=ui.Layout(width=width),
        style={"description_width": "90px"},
    )  # fmt: skip


def close_all(root: ui.Widget) -> None:
    """Close every widget below ``root``, their layouts and styles, and the layout of ``root``."""
    for part in _below(root):
        for piece in ("layout", "style"):
            held = getattr(part, piece, None)
            if isinstance(held, ui.Widget):
                held.close()
        if part is not root:
            part.close()


def _below(widget: ui.Widget) -> list[ui.Widget]:
    """A widget and all below it, the deepest first."""
    parts = [part for child in getattr(widget, "children", ()) for part in _below(child)]
    return [*parts, widget]
