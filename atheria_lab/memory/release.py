"""release(): give back what a notebook still holds without meaning to."""

from __future__ import annotations

import gc
import html
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from atheria_lab._checks import integer
from atheria_lab.memory.holders import Holdings, holders, live_tensors, shell
from atheria_lab.memory.ledger import Ledger
from atheria_lab.memory.sizes import format_size

OUTPUTS, TRACEBACKS = "Out[] and _", "last traceback"
UNREACHABLE, CUDA_CACHE = "closed engines and cycles", "CUDA cache"


@dataclass(frozen=True, repr=False)
class Released:
    """What :func:`release` gave back, and what is still there.

    Attributes:
        freed: bytes of tensors by what held them: "Out[] and _", "last traceback", "closed
            engines and cycles"; and "CUDA cache", bytes that the allocator gave back to the
            device, where CUDA is in use.
        held: the largest tensors that are still alive, and who refers to them.
    """

    freed: dict[str, int]
    held: Holdings

    def __repr__(self) -> str:
        rows = [f"{format_size(size):>10}  {kind}" for kind, size in self.freed.items()]
        return "\n".join(["freed:", *rows, "still held, the largest first:", repr(self.held)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(kind)}</td>"
            f"<td style='text-align:right'>{format_size(size)}</td></tr>"
            for kind, size in self.freed.items()
        )
        return f"<table><caption>freed</caption>{rows}</table>{self.held._repr_html_()}"


def release(n: int = 5) -> Released:
    """Give back what a notebook still holds without meaning to, and say who holds the rest.

    It forgets the outputs (``Out[]``, ``_``, ``__``, ``___``, ``_1``, ...), the last error's
    traceback with the local variables of its frames (``%debug`` has nothing to look at after
    that), collects what only cycles keep, such as engines that nobody refers to any more, and
    hands CUDA's cached memory back to the device. Variables are yours: they are left alone,
    and named in ``held``. It works outside IPython too.

    The bytes are those of tensors that Python could reach when it began; a graph of autograd
    that goes with them is not counted.

    Args:
        n: how many of the tensors that are still alive to look into.
    """
    integer("n", n)
    freed = {}
    ways: tuple[tuple[str, Callable[[], None]], ...] = (
        (UNREACHABLE, lambda: None),
        (OUTPUTS, _forget_outputs),
        (TRACEBACKS, _forget_tracebacks),
    )
    ledger = Ledger()
    _file(ledger)
    for kind, forget in ways:
        ledger.settle()
        before = ledger.total
        forget()
        gc.collect()
        ledger.settle()
        freed[kind] = before - ledger.total
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        reserved = sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count())))
        torch.cuda.empty_cache()
        freed[CUDA_CACHE] = reserved - sum(
            map(torch.cuda.memory_reserved, range(torch.cuda.device_count()))
        )
    return Released(freed, holders(n))


def _file(ledger: Ledger) -> None:
    for storage, _ in live_tensors():
        ledger.file(storage, "")


def _forget_outputs() -> None:
    ipython = shell()
    if ipython is None:
        if hasattr(sys, "ps1"):  # Python's own prompt keeps the last value in builtins
            sys.modules["builtins"].__dict__.pop("_", None)
        return
    names = ipython.user_ns
    outputs = names.get("_oh", {})
    for key in [f"_{number}" for number in outputs] + ["_", "__", "___"]:
        names.pop(key, None)
        ipython.user_ns_hidden.pop(key, None)
    outputs.clear()
    hook = ipython.displayhook
    for name in ("_", "__", "___"):  # as IPython leaves them after %reset out
        setattr(hook, name, "")
        names[name] = ""
    last = getattr(ipython, "last_execution_result", None)
    if last is not None:
        last.result = None


def _forget_tracebacks() -> None:
    kept: list[Any] = [getattr(sys, name, None) for name in ("last_exc", "last_value")]
    _clear(getattr(sys, "last_traceback", None))
    ipython = shell()
    if ipython is not None:
        last = getattr(ipython, "last_execution_result", None)
        if last is not None:
            kept += [last.error_in_exec, last.error_before_exec]
            last.error_in_exec = last.error_before_exec = None
        for name in ("InteractiveTB", "SyntaxTB", "CustomTB"):
            handler: Any = getattr(ipython, name, None)
            if isinstance(getattr(handler, "tb", None), TracebackType):
                _clear(handler.tb)
                handler.tb = handler.etype = handler.evalue = None
    seen: set[int] = set()
    while kept:
        error = kept.pop()
        if isinstance(error, BaseException) and id(error) not in seen:
            seen.add(id(error))
            _clear(error.__traceback__)
            kept += [error.__cause__, error.__context__]
            kept += error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for name in ("last_exc", "last_value", "last_traceback", "last_type"):
        if hasattr(sys, name):
            delattr(sys, name)


def _clear(trace: TracebackType | None) -> None:
    """Forget the local variables of a traceback's frames; those that still run keep theirs."""
    traceback.clear_frames(trace)
    for frame, _ in traceback.walk_tb(trace):
        # Python <= 3.12 keeps a copy for who looked at them; looking again renews it.
        frame.f_locals.get("")
