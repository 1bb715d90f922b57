"""Magics for IPython: ``%load_ext atheria_lab``.

``%memory`` shows whose the live bytes are, ``%memory diff`` what has changed since the last
time, ``%memory holders`` the largest tensors and who refers to them. ``%release`` gives back what
the notebook holds without meaning to. ``%%budget 512 MiB`` gives a cell so many bytes of tensors
and no more. Each takes ``--help``.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from typing import Any, TypeVar

from atheria_lab import memory
from atheria_lab.memory import Holdings, Owners, Released, format_size

_T = TypeVar("_T")


def load_ipython_extension(shell: Any) -> None:
    """What ``%load_ext atheria_lab`` does."""
    magics = _Magics(shell)
    shell.register_magic_function(magics.memory, "line", "memory")
    shell.register_magic_function(magics.release, "line", "release")
    shell.register_magic_function(magics.budget, "cell", "budget")


def unload_ipython_extension(shell: Any) -> None:
    """What ``%unload_ext atheria_lab`` does."""
    known = shell.magics_manager.magics
    for kind, name in (("line", "memory"), ("line", "release"), ("cell", "budget")):
        if isinstance(getattr(known[kind].get(name), "__self__", None), _Magics):
            del known[kind][name]


class _Magics:
    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._before: Owners | None = None

    def memory(self, line: str) -> Owners | Holdings | None:
        """Whose the live bytes are, and who holds the largest tensors."""
        parser = _Parser("%memory", "Whose the live bytes are, and the limit that holds.")
        parser.add_argument(
            "what", nargs="?", choices=["owners", "diff", "holders"], default="owners",
            help="the owners; what has changed since the last %%memory; or the largest tensors "
            "with who refers to them",
        )  # fmt: skip
        parser.add_argument("-n", type=int, default=10, help="how many tensors (%(default)s)")
        return parser.then(line, self._memory)

    def release(self, line: str) -> Released | None:
        """Give back what the notebook holds without meaning to."""
        parser = _Parser(
            "%release", "Forget Out[] and the last traceback, collect, and say who holds the rest."
        )
        parser.add_argument("-n", type=int, default=5, help="how many tensors to look into")
        return parser.then(line, lambda options: memory.release(options.n))

    def budget(self, line: str, cell: str) -> None:
        """Give a cell so many bytes of tensors and no more."""
        parser = _Parser("%%budget", "Give a cell so many bytes of tensors, and report its peak.")
        parser.add_argument("size", nargs="+", help='bytes, or such as "512 MiB"')
        parser.then(line, lambda options: self._budget(" ".join(options.size), cell))

    def _memory(self, options: argparse.Namespace) -> Owners | Holdings:
        if options.what != "diff":
            limit = memory.holding_limit()
            held = memory.Limits().used()
            most = "unknown" if limit is None else f"{format_size(limit.bytes)} ({limit.name})"
            print(f"process: {format_size(held)} in use, limit {most}")
        if options.what == "holders":
            return memory.holders(options.n)
        now = memory.owners()
        before, self._before = self._before, now
        if options.what == "owners":
            return now
        return now - before if before is not None else now

    def _budget(self, size: str, cell: str) -> None:
        with memory.cap(size) as peak:
            result = self._shell.run_cell(cell)
        print(f"peak {format_size(peak.peak_bytes)} of {size}, {format_size(peak.live_bytes)} left")
        print(peak.owners_at_peak)
        if not result.success and isinstance(result.error_in_exec, memory.OverBudgetError):
            print("The cell was ended by its budget.")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong, or helps, and returns: a magic must not end the session."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(prog=name, description=description)

    def then(self, line: str, run: Callable[[argparse.Namespace], _T]) -> _T | None:
        try:
            options = self.parse_args(shlex.split(line))
        except SystemExit:
            return None
        return run(options)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(f"{self.prog}: {message}. {self.format_usage().strip()}")
