"""HistoryStrip: which states of a rollout are kept, and how they look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

from atheria_lab.lattice import density
from atheria_lab.memory import format_size
from atheria_lab.widgets.live import LiveView, colour_tables, text
from atheria_lab.widgets.stream import Message

_SIDE = 48
_MOST = 64


class HistoryStrip(LiveView):
    """The kept states of a rollout as thumbnails of their density, and a line that shows where.

    It holds bytes for the thumbnails only, never psi. The arrows walk along the strip.

    Args:
        on_pick: called with the index of the state that was chosen, on the thread that receives
            messages.
        per_second: pictures at most.
    """

    _esm = text("page.js", "colours.js", "history_strip.js")
    _css = text("history_strip.css")
    _tables = colour_tables()

    def __init__(
        self,
        *,
        on_pick: Callable[[int], None] | None = None,
        per_second: float = 4.0,
        **traits: Any,
    ) -> None:
        self.on_pick = on_pick
        self.picked: int | None = None
        self._message: Message | None = None
        super().__init__(per_second=per_second, **traits)

    def show(
        self, states: Sequence[Tensor], indices: Sequence[int], steps: int, *, last: bool = True
    ) -> bool:
        """Show the kept states.

        Args:
            states: psi ``[B, H, W, d_state]`` each; of over 64 states, 64 spread evenly are shown.
            indices: the steps after which they were kept.
            steps: of the whole rollout.
            last: show them even if the picture before has only just been shown.

        Raises:
            ValueError: as many states as indices are needed.
        """
        if len(states) != len(indices):
            raise ValueError(
                f"indices: got {len(indices)} for {len(states)} states; it takes one for each."
            )
        return self.stream.offer(lambda: self._build(states, indices, steps), last=last)

    def pick(self, index: int) -> None:
        """Mark a state as the one that is looked at."""
        self.picked = index
        message = self._message
        if message is not None:
            self._message = ({**message[0], "picked": index}, message[1])
            self.stream.offer(lambda: self._message or message, last=True)

    def heard(self, content: dict[str, Any]) -> None:
        if content.get("kind") == "pick":
            self.pick(int(content["index"]))
            if self.on_pick is not None:
                self.on_pick(int(content["index"]))

    def _build(self, states: Sequence[Tensor], indices: Sequence[int], steps: int) -> Message:
        places = np.unique(np.linspace(0, len(states) - 1, min(len(states), _MOST)).round())
        shown = [int(place) for place in places] if len(states) else []
        planes = [_thumbnail(states[at]) for at in shown]
        top = max([1e-12, *(float(plane.max()) for plane in planes)])
        size = states[0].nbytes if len(states) else 0
        content = {
            "kind": "strip",
            "title": f"psi_history: {len(states)} of {steps:,} states kept, "
            f"{format_size(size * len(states))} of {format_size(size * steps)}",
            "indices": [int(indices[at]) for at in shown],
            "steps": steps,
            "shape": list(planes[0].shape) if planes else [1, 1],
            "colours": "sequential",
            "picked": self.picked,
        }
        scaled = [np.clip(plane * (255 / top), 0, 255).astype(np.uint8) for plane in planes]
        self._message = content, [b"".join(plane.tobytes() for plane in scaled)]
        return self._message


def _thumbnail(psi: Tensor) -> np.ndarray:
    rho = density(psi[:1].detach())
    height, width = (min(side, _SIDE) for side in rho.shape[1:])
    small: np.ndarray = F.adaptive_avg_pool2d(rho, (height, width))[0].nan_to_num().cpu().numpy()
    return small
