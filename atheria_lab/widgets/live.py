"""What every live view shares: its module's text, a stream, and an end that frees all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as ui
import traitlets

from atheria_lab import colours
from atheria_lab.widgets.stream import Stream

_HERE = Path(__file__).parent
_anchor: ui.Widget | None = None


def text(*names: str) -> str:
    """The files of this folder, one after the other.

    As text, since a widget that is given a path watches the file for ever.
    """
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


def colour_tables() -> traitlets.Bytes:
    """The trait that hands ``colours.js`` its tables."""
    names = ("sequential", "cyclic", "diverging")
    return traitlets.Bytes(b"".join(colours.table(name).tobytes() for name in names)).tag(sync=True)


def drop_anchor() -> None:
    """Make a widget that is never closed, once.

    JupyterLab (4.6) has all widgets talk to one subshell of the kernel, which goes with the last
    of them; a widget that is made at that moment talks to the one that is gone, and is not heard.
    """
    global _anchor
    if _anchor is None or _anchor.comm is None:
        _anchor = ui.Layout()


class LiveView(anywidget.AnyWidget):
    """A view whose pictures travel as binary messages, never as state.

    Args:
        per_second: pictures made at most in a second.
        traits: of the widget.
    """

    def __init__(self, *, per_second: float, **traits: Any) -> None:
        drop_anchor()
        self.stream = Stream(self._dispatch, per_second=per_second)
        super().__init__(**traits)
        self.on_msg(self._receive)

    def close(self) -> None:
        """Free everything; nothing is sent from now on."""
        if not hasattr(self, "stream"):  # refused before it was built
            return
        self.stream.close()
        if self.comm is not None:
            self.layout.close()
        super().close()

    def heard(self, content: dict[str, Any]) -> None:
        """Take a message of the page that is not about the stream."""

    def _dispatch(self, content: dict[str, Any], buffers: list[bytes]) -> None:
        if self.comm is not None:
            self.send(content, buffers)

    def _receive(self, _: object, content: Any, __: object) -> None:
        if isinstance(content, dict) and not self.stream.receive(content):
            self.heard(content)
