"""The largest tensors that are alive, and who holds them, in words."""

from __future__ import annotations

import gc
import html
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from atheria_lab._checks import integer
from atheria_lab.memory.ledger import storage_of
from atheria_lab.memory.sizes import format_size

_DEEPEST = 8  # links from a tensor to what holds it
_MOST_VISITED = 400
_UNSEEN = "nothing that Python can see: a numpy view, or a graph of autograd"


@dataclass(frozen=True)
class Holding:
    """A storage that is alive.

    Attributes:
        nbytes: of the storage.
        shape: of the largest tensor on it.
        dtype: likewise, "complex64".
        device: "cpu", "cuda:0".
        held_by: who refers to it, in words, the nearest first.
    """

    nbytes: int
    shape: tuple[int, ...]
    dtype: str
    device: str
    held_by: tuple[str, ...]

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"{format_size(self.nbytes)} {shape} {self.dtype} on {self.device}"


class Holdings(tuple[Holding, ...]):
    """The largest first; a notebook shows them as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        lines = [f"{each!s}\n    held by {'; '.join(each.held_by)}" for each in self]
        return "\n".join(lines) or "no tensors"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(str(each))}</td><td style='text-align:"
            f"left'>{'<br>'.join(map(html.escape, each.held_by))}</td></tr>"
            for each in self
        )
        return f"<table><tr><th>tensor</th><th>held by</th></tr>{rows}</table>"


def live_tensors() -> Iterator[tuple[Any, list[Tensor]]]:
    """Every storage that Python can reach, with the tensors on it."""
    found: dict[int, tuple[Any, list[Tensor]]] = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and thing.device.type != "meta":
            storage = storage_of(thing)
            if storage is not None:
                found.setdefault(storage._cdata, (storage, []))[1].append(thing)
    yield from found.values()


def holders(n: int = 10) -> Holdings:
    """The n largest tensors that are alive, and who refers to each.

    It walks back from a tensor over what refers to it, up to a variable of the notebook or of
    a module, or a local variable of a function that runs or that a traceback keeps. Tenths of
    a second a tensor in a large session.

    Args:
        n: how many.
    """
    n = integer("n", n)
    found = sorted(live_tensors(), key=lambda entry: -entry[0].nbytes())[:n]
    mine = {id(found), *(id(part) for entry in found for part in (entry, entry[1]))}
    holdings = []
    for storage, tensors in found:
        largest = max(tensors, key=lambda tensor: tensor.numel())
        words = _words(tensors, mine)
        holdings.append(
            Holding(
                nbytes=storage.nbytes(),
                shape=tuple(largest.shape),
                dtype=str(largest.dtype).removeprefix("torch."),
                device=str(largest.device),
                held_by=tuple(words) or (_UNSEEN,),
            )
        )
    return Holdings(holdings)


def _words(tensors: list[Tensor], mine: set[int]) -> list[str]:
    """Breadth first: what refers to the tensors, until it has a name."""
    running = _running_locals(mine)
    named = [(name, m) for name, m in list(sys.modules.items()) if hasattr(m, "__dict__")]
    named.sort(key=lambda pair: pair[0] == "__main__")  # which has a second name, __mp_main__
    modules = {id(vars(module)): name for name, module in named}
    queue: deque[tuple[Any, str]] = deque((tensor, "") for tensor in tensors)
    seen = {id(tensor) for tensor in tensors} | mine | {id(queue), id(running), id(modules)}
    words: dict[str, None] = {}
    visited, furthest = 0, ""
    while queue and visited < _MOST_VISITED and len(words) < 3:
        thing, path = queue.popleft()
        visited += 1
        if path and not isinstance(thing, types.MethodType):
            furthest = f"{type(thing).__name__}{path}, which no variable holds"
        for name, value in running:
            if value is thing:
                words.setdefault(name.format(path=path))
        if path.count("\0") >= _DEEPEST:
            continue
        for referrer in gc.get_referrers(thing):
            if id(referrer) in seen or referrer is sys._getframe():
                continue
            root = _root(referrer, thing, path, modules)
            if root is not None:
                words.setdefault(root.replace("\0", ""))
                continue
            finalizer = type(referrer).__qualname__ == "finalize._Info"  # dies with its object
            if finalizer or isinstance(referrer, types.ModuleType | type):
                continue
            seen.add(id(referrer))
            queue.append((referrer, f"\0{_link(referrer, thing)}{path}"))
    return [word.replace("\0", "") for word in words or [furthest] if word]


def _root(referrer: Any, thing: Any, path: str, modules: Mapping[int, str]) -> str | None:
    """The words for a referrer that has a name of its own."""
    if isinstance(referrer, types.FrameType):
        names = [name for name, value in referrer.f_locals.items() if value is thing]
        return f"{_local(names, path)} of {_place(referrer)}, kept by a traceback or a generator"
    if isinstance(referrer, dict):
        names = [key for key, value in list(referrer.items()) if value is thing]
        name = str(names[0]) if names else "?"
        shell = shell_names()
        if shell is not None and referrer is shell.get("_oh"):
            return f"Out[{name}]{path}"
        if referrer is shell or modules.get(id(referrer)) == "__main__":
            if name in ("_", "__", "___") or (name[:1] == "_" and name[1:].isdigit()):
                return f"{name}{path}, an output of the notebook"
            return f"the variable {name}{path}"
        if id(referrer) in modules:
            return f"{modules[id(referrer)]}.{name}{path}"
    return None


def _link(referrer: Any, thing: Any) -> str:
    """How to go from a referrer to the thing, as one would write it."""
    if isinstance(referrer, Mapping):
        keys = [key for key, value in list(referrer.items()) if value is thing]
        if not keys:
            return "[?]"
        owner = _owner(referrer)
        return f".{keys[0]}" if owner and isinstance(keys[0], str) else f"[{keys[0]!r}]"
    if isinstance(referrer, tuple) and hasattr(referrer, "_fields"):
        names = [n for n, v in zip(referrer._fields, referrer, strict=False) if v is thing]
        return f".{names[0]}" if names else ""
    if isinstance(referrer, list | tuple | deque):
        place = next((i for i, value in enumerate(referrer) if value is thing), "?")
        return f"[{place}]"
    if isinstance(referrer, types.CellType):
        return ""
    if isinstance(referrer, types.FunctionType):
        return f" (closure of {referrer.__qualname__})"
    if isinstance(referrer, set | frozenset):
        return " (in a set)"
    for name, value in _attributes(referrer):
        if value is thing:
            return f".{name}"
        if value is getattr(thing, "__dict__", None) and name != "__dict__":
            return f".{name}"
    return ""


def _owner(namespace: Any) -> bool:
    """Whether a dict is the ``__dict__`` of some object."""
    return any(
        getattr(owner, "__dict__", None) is namespace for owner in gc.get_referrers(namespace)
    )


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    namespace = getattr(thing, "__dict__", None)
    if isinstance(namespace, dict):
        yield from list(namespace.items())
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if isinstance(vars(kind).get(name), types.MemberDescriptorType):
                yield name, getattr(thing, name, None)


def _running_locals(mine: set[int]) -> list[tuple[str, Any]]:
    """The local variables of all functions that run, but this room's."""
    found = []
    for frame in sys._current_frames().values():
        current: types.FrameType | None = frame
        while current is not None:
            code = current.f_code
            local = code.co_flags & 0x1  # CO_OPTIMIZED: a function, not a module or a cell
            if local and not _is_mine(code):
                place = _place(current)
                values = current.f_locals
                mine.add(id(values))
                for name, value in list(values.items()):
                    found.append((f"the local variable {name}{{path}} of {place}", value))
            current = current.f_back
    del frame  # one of them is this function's own: a cycle, which would keep all the others
    mine.add(id(found))
    mine.update(id(entry) for entry in found)
    return found


def _is_mine(code: types.CodeType) -> bool:
    return Path(code.co_filename).parent == Path(__file__).parent


def _local(names: list[str], path: str) -> str:
    return f"the local variable {names[0]}{path}" if names else f"a value{path}"


def _place(frame: types.FrameType) -> str:
    file = Path(frame.f_code.co_filename).name
    return f"{frame.f_code.co_qualname}() ({file}:{frame.f_lineno})".translate(_BRACES)


_BRACES = str.maketrans({"{": "(", "}": ")"})


def shell() -> Any | None:
    """IPython's shell, if this program runs in one; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def shell_names() -> dict[str, Any] | None:
    """The notebook's variables."""
    found = shell()
    return None if found is None else found.user_ns
