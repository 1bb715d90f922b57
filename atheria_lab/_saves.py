"""Where an engine's ``step`` writes the states that it saves."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from atheria_lab._checks import integer


def prepare(
    psi: Tensor, n: int, save_every: int | None, out: Tensor | np.ndarray | None, *, native: bool
) -> tuple[Tensor | None, Tensor | np.ndarray | None]:
    """The tensor that states are written to, and the same memory as the caller gave it.

    Args:
        psi: what a state looks like.
        n: steps to come.
        save_every: of them each such state is saved; ``None``: none.
        out: the caller's memory ``[n // save_every, *psi.shape]``; made if left out.
        native: whether the compiled module writes there.
    """
    if save_every is None:
        if out is not None:
            raise ValueError("out: got one without save_every; give both.")
        return None, None
    save_every = integer("save_every", save_every)
    if save_every > n:
        raise ValueError(f"save_every: got {save_every}; it takes at most n, {n}.")
    shape = (n // save_every, *psi.shape)
    if out is None:
        saves = torch.empty(shape, dtype=psi.dtype, device=psi.device)
        return saves, saves
    if isinstance(out, np.ndarray):
        if not out.flags.writeable:
            raise ValueError("out: it is read-only.")
        saves = torch.from_numpy(out)
    elif isinstance(out, Tensor):
        saves = out.detach()
    else:
        raise TypeError(f"out: got {type(out).__name__}; it takes a tensor or a numpy array.")
    if tuple(saves.shape) != shape or saves.dtype != psi.dtype:
        raise ValueError(
            f"out: got {saves.dtype} {tuple(saves.shape)}; it takes {psi.dtype} {shape}."
        )
    if native and not (
        saves.device.type == "cpu" and saves.is_contiguous() and not saves.is_conj()
    ):
        raise ValueError("out: the native backend takes contiguous memory on the CPU.")
    return saves, out
