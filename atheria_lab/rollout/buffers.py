"""Buffers that a step changes: the running statistics of a batch norm, and the like.

They are a state that no checkpoint knows. A step that is made again would change them again,
and may read them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from atheria_lab.rollout.parameters import held_by


@contextmanager
def restored(step: Any) -> Generator[Callable[[], list[str]]]:
    """Whatever the block does to the buffers of the step's modules is undone at its end.

    Yields:
        A function that tells which of them are changed, by their names.
    """
    found = {
        id(buffer): (f"{type(module).__name__}.{name}", buffer, buffer.detach().clone())
        for module in held_by(step)
        if isinstance(module, nn.Module)
        for name, buffer in module.named_buffers()
    }

    def changed() -> list[str]:
        return [name for name, buffer, before in found.values() if not _same(buffer, before)]

    try:
        yield changed
    finally:
        with torch.no_grad():
            for _, buffer, before in found.values():
                if not _same(buffer, before):  # what is equal keeps its version
                    buffer.copy_(before)


def refuse_changed(names: list[str], i: int) -> None:
    """Refuse a step that cannot be made again without a trace.

    Raises:
        RuntimeError: it changed buffers.
    """
    if names:
        raise RuntimeError(
            f"step: step {i} changed a buffer of a module ({', '.join(names[:3])}), and would "
            "change it again when it is made again. Freeze it (module.eval()), take a norm without "
            "running statistics, or plan=StoreAll()."
        )


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a, b) or bool(torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True))
