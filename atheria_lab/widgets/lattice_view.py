"""LatticeView: psi, live, in the browser."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import traitlets
from matplotlib.image import imsave
from torch import Tensor

from atheria_lab import colours
from atheria_lab.lattice import density
from atheria_lab.widgets.frames import VIEWS, Frame, frame
from atheria_lab.widgets.live import LiveView, colour_tables, text
from atheria_lab.widgets.stream import Message

# How much of a picture's range is forgotten from one frame to the next.
_DECAY = 0.97


class Stroke(NamedTuple):
    """What the pointer drew.

    Attributes:
        tool: "damage" or "excite".
        cells: ``(y, x)`` of the cells that it passed.
        radius: of the disc around each, in cells.
    """

    tool: str
    cells: list[tuple[int, int]]
    radius: int


class LatticeView(LiveView):
    """A live picture of psi: density, phase, a channel, real and imaginary part, S(k).

    ::

        view = al.widgets.LatticeView()
        display(view)
        with al.Engine(law, psi) as engine:
            for _ in range(1000):
                engine.step()
                view.show(engine.psi, engine.steps_done)

    ``show`` costs next to nothing where no frame is due: a picture is made at most ``per_second``
    times a second, and only as fast as the browser draws them. The wheel or + and - zoom, dragging
    or the arrows move over the torus, the pointer reads a cell's values or draws.

    The view holds the last state that it was shown (to read cells and to change the view), until
    the next one, :meth:`clear` or ``close()``. Frames never enter the widget's state: a saved
    notebook keeps one PNG.

    Args:
        psi: to show at once, complex ``[B, H, W, d_state]``; its first lattice is seen.
        per_second: frames made at most in a second.
        on_draw: called with each :class:`Stroke` of the tools "damage" and "excite". It is called
            on the thread that receives messages: hand the stroke to a queue.
    """

    _esm = text("page.js", "colours.js", "lattice_view.js")
    _css = text("lattice_view.css")

    view = traitlets.Enum(VIEWS, "density").tag(sync=True)
    channel = traitlets.Int(0, min=0).tag(sync=True)
    tool = traitlets.Enum(("look", "damage", "excite"), "look").tag(sync=True)
    radius = traitlets.Int(2, min=0, max=64).tag(sync=True)
    _views = traitlets.List(list(VIEWS)).tag(sync=True)
    _channels = traitlets.Int(1).tag(sync=True)
    _tables = colour_tables()

    def __init__(
        self,
        psi: Tensor | None = None,
        *,
        per_second: float = 60.0,
        on_draw: Callable[[Stroke], None] | None = None,
        **traits: Any,
    ) -> None:
        self._psi: Tensor | None = None
        self._step: int | None = None
        self._frame: Frame | None = None
        self._high: tuple[object, float] = (None, 0.0)
        self.on_draw = on_draw
        super().__init__(per_second=per_second, **traits)
        self.observe(self._again, names=["view", "channel"])
        if psi is not None:
            self.show(psi, last=True)

    def show(self, psi: Tensor, step: int | None = None, *, last: bool = False) -> bool:
        """Show a state.

        Args:
            psi: complex ``[B, H, W, d_state]``.
            step: written beside it.
            last: show it even if the frame before has only just been shown: no other follows.

        Returns:
            Whether a picture was made; ``False`` where none was due.
        """
        return self.stream.offer(lambda: self._message(psi, step), last=last)

    def clear(self) -> None:
        """Let go of the last state; the picture stays."""
        self._psi = None

    def close(self) -> None:
        """Free everything; nothing is sent from now on."""
        self._psi = self._frame = None
        super().close()

    def picture(self) -> np.ndarray:
        """The last picture in colours, uint8 ``[height, width, 4]``.

        Raises:
            RuntimeError: nothing has been shown yet.
        """
        if self._frame is None:
            raise RuntimeError("Nothing has been shown yet: call show(psi) first.")
        return _coloured(self._frame)

    def _message(self, psi: Tensor, step: int | None) -> Message:
        channels = psi.shape[-1]
        if channels != self._channels:
            self._channels = channels
            self.channel = min(self.channel, channels - 1)
        key = (self.view, self.channel, psi.shape)
        high = self._high[1] * _DECAY if self._high[0] == key else 0.0
        picture = frame(psi, self.view, self.channel, high=high)
        self._high = (key, picture.high)
        self._psi, self._step, self._frame = psi.detach(), step, picture
        content = {
            "kind": "frame",
            "step": step,
            "shape": list(picture.planes.shape[1:]),
            "size": list(psi.shape[1:3]),
            "colours": picture.colours,
            "low": picture.low,
            "high": picture.high,
        }
        return content, [picture.planes.tobytes()]

    def _again(self, _: object) -> None:
        if self._psi is not None:
            self.show(self._psi, self._step, last=True)

    def heard(self, content: dict[str, Any]) -> None:
        if content.get("kind") == "probe":
            self._tell(content)
        elif content.get("kind") == "draw" and self.on_draw is not None:
            cells = [(int(y), int(x)) for y, x in content["cells"]]
            self.on_draw(Stroke(str(content["tool"]), cells, int(content["radius"])))

    def _tell(self, content: dict[str, Any]) -> None:
        """The values of the cell under the pointer."""
        psi = self._psi
        y, x = (int(place) for place in content["cell"])
        if psi is None or not (0 <= y < psi.shape[1] and 0 <= x < psi.shape[2]):
            return
        cell = psi[:1, y : y + 1, x : x + 1]
        rho = float(density(cell))
        value = complex(cell[0, 0, 0, min(self.channel, psi.shape[-1] - 1)])
        said = f"({y}, {x})  density {rho:.4g}  ψ{self.channel} {value.real:+.3g}{value.imag:+.3g}i"
        self.send({"kind": "values", "text": said})

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and a PNG for readers that run no widgets."""
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None or self._frame is None:
            return bundle
        file = io.BytesIO()
        picture = _coloured(self._frame)
        times = max(1, 256 // max(picture.shape[:2]))
        imsave(file, np.repeat(np.repeat(picture, times, 0), times, 1), format="png")
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "image/png": file.getvalue()}, metadata


def _coloured(picture: Frame) -> np.ndarray:
    first = picture.planes[0]
    rgba = np.full((*first.shape, 4), 255, np.uint8)
    if picture.colours in ("phase", "domain"):
        rgba[..., :3] = colours.table("cyclic")[first]
        light = picture.planes[1].astype(np.float32) / 255
        if picture.colours == "phase":
            rgba[..., 3] = 255 * (0.06 + 0.94 * light)
        else:
            shade, tint = np.minimum(1, light / 0.6), np.maximum(0, light - 0.6)
            colour = rgba[..., :3] * shade[..., None]
            rgba[..., :3] = colour + (255 - colour) * tint[..., None]
    else:
        rgba[..., :3] = colours.table(picture.colours)[first]
    return rgba
