"""What a step function closes over: the parameters whose gradients a rollout owes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from atheria_lab.rollout.stepper import Record, Stepper, graph_leaves

_DEPTH = 4


def closed_over(
    stepper: Stepper, record: Record, given: Iterable[Tensor] | None = None
) -> list[Tensor]:
    """The leaf tensors that require grad and that the step may read, each once.

    The graph of one recorded step shows what that step reads. A step may read others at other
    indices (a law for each phase of a rollout), so the modules and tensors that the function
    itself holds on to are added, and those that the caller names.

    Raises:
        RuntimeError: the step reads a tensor that was computed before the step.
        TypeError: ``given`` holds something else than tensors.
        ValueError: ``given`` holds a tensor that is no leaf.
    """
    found = {id(leaf): leaf for leaf in graph_leaves(record)}
    for thing in held_by(stepper.step):
        for leaf in thing.parameters() if isinstance(thing, nn.Module) else (thing,):
            if leaf.requires_grad and leaf.is_leaf:
                found.setdefault(id(leaf), leaf)
    for leaf in given or ():
        if not isinstance(leaf, Tensor):
            raise TypeError(f"parameters: got {type(leaf).__name__}; it takes tensors.")
        if not leaf.is_leaf:
            raise ValueError(
                "parameters: got a tensor that was computed; it takes leaves, as law.parameters() "
                "gives them."
            )
        if leaf.requires_grad:
            found.setdefault(id(leaf), leaf)
    return list(found.values())


def held_by(step: Any) -> Iterable[Tensor | nn.Module]:
    """The tensors and modules that a function holds on to, a few references deep."""
    return _held_by(step, _DEPTH, set())


def _held_by(thing: Any, depth: int, seen: set[int]) -> Iterable[Tensor | nn.Module]:
    if depth == 0 or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor | nn.Module):
        yield thing
    if isinstance(thing, Tensor):
        return
    for part in _parts(thing):
        yield from _held_by(part, depth - 1, seen)


def _parts(thing: Any) -> Iterable[Any]:
    match thing:
        case functools.partial():
            return (thing.func, *thing.args, *thing.keywords.values())
        case MethodType():
            return (thing.__self__, thing.__func__)
        case FunctionType():
            names = [name for name in thing.__code__.co_names if name in thing.__globals__]
            return (
                *(thing.__closure__ or ()),
                *(thing.__defaults__ or ()),
                *(thing.__kwdefaults__ or {}).values(),
                *(thing.__globals__[name] for name in names),
            )
        case CellType():
            return _contents(thing)
        case list() | tuple() | set():
            return thing
        case dict():
            return thing.values()
        case type() | ModuleType() | str() | bytes() | int() | float():
            return ()
    if type(thing).__module__.partition(".")[0] in ("builtins", "torch", "numpy"):
        return ()
    return vars(thing).values() if hasattr(thing, "__dict__") else ()


def _contents(cell: CellType) -> Iterable[Any]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # a name that is bound later
        return ()
