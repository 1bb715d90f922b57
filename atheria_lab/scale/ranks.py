"""The ranks that work together: who is there, that they agree, and what is said if one is lost.

It knows torch only, and stands below the rest of the package, as ``memory`` does. Without a
process group there is one rank, which agrees with itself.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist

from atheria_lab._checks import number

if TYPE_CHECKING:
    Group = dist.ProcessGroup | None
else:
    Group = Any  # some builds of torch have no process groups
T = TypeVar("T")

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TO_FIND_THE_LOST = timedelta(seconds=5)


class RankLostError(RuntimeError):
    """Another rank ended, or did not answer in time; this one cannot go on alone."""


def in_group() -> bool:
    """Whether this process belongs to an initialised process group."""
    return dist.is_available() and dist.is_initialized()


def count(group: Group = None) -> int:
    """How many ranks there are; 1 without a process group."""
    return dist.get_world_size(group) if in_group() else 1


def rank(group: Group = None) -> int:
    """Which of them this is, from 0."""
    return dist.get_rank(group) if in_group() else 0


@contextmanager
def joined(device: str = "cpu", *, timeout: float = 600.0) -> Generator[str]:
    """The process group that ``torchrun``'s environment describes; it is left at the end.

    gloo on the CPU, NCCL on CUDA, one device a rank. Where the environment describes none
    (a plain ``python``), this process stays alone.

    Args:
        device: "cpu" or "cuda".
        timeout: seconds to wait for a rank that does not answer. One that ended is noticed
            at once.

    Yields:
        The device of this rank: "cpu", "cuda:0", ...

    Raises:
        ValueError: the environment is incomplete, or the ranks run different code.
        RankLostError: not all ranks came.
    """
    number("timeout", timeout, least=1.0)
    given = [name for name in _ENVIRONMENT if name in os.environ]
    if not given:
        yield device
        return
    if len(given) < len(_ENVIRONMENT):
        missing = ", ".join(name for name in _ENVIRONMENT if name not in given)
        raise ValueError(
            f"environment: {', '.join(given)} is set, but {missing} is not. Start it with "
            "torchrun, which sets all, or unset them to train in one process."
        )
    backend = "gloo"
    if torch.device(device).type == "cuda":
        backend, device = "nccl", f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    with _talking(None, "the ranks did not all come together"):
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        check_same({"code": code_fingerprint(), "torch": torch.__version__})
        yield device
    finally:
        dist.destroy_process_group()


@functools.cache
def code_fingerprint() -> str:
    """A SHA-256 of this package's Python files, names and contents: 16 hexadecimal digits."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def check_same(facts: Mapping[str, object], group: Group = None) -> None:
    """Refuse, on every rank, what is not the same on every rank.

    Args:
        facts: by name; they are compared by their ``repr``.
        group: the ranks; all must call it.

    Raises:
        ValueError: it names the first rank that differs from rank 0, and what differs.
    """
    own = {name: repr(value) for name, value in facts.items()}
    everybody = gather(own, group)
    for other, theirs in enumerate(everybody):
        for name in {**everybody[0], **theirs}:
            wanted, got = everybody[0].get(name, "missing"), theirs.get(name, "missing")
            if got != wanted:
                raise ValueError(
                    f"{name}: rank {other} of {len(everybody)} has {got}, rank 0 has {wanted}. All "
                    "ranks take the same code, settings and shapes: start them with one command."
                )


def together(work: Callable[[], T], group: Group = None) -> list[T]:
    """Every rank's result of ``work``, in the order of the ranks; an error on one ends all.

    Args:
        work: what each rank does; its result must be a plain value.
        group: the ranks; all must call it.

    Raises:
        RuntimeError: it failed on another rank; its words are repeated. Where it failed, the
            error itself is raised.
    """
    result: T | None = None
    failed: BaseException | None = None
    try:
        result = work()
    except BaseException as error:
        failed = error
    told = None if failed is None else f"{type(failed).__name__}: {failed}"
    answers = gather((told, result), group)
    if failed is not None:
        raise failed
    for other, (words, _) in enumerate(answers):
        if words is not None:
            raise RuntimeError(f"rank {other} of {len(answers)} failed, so all end: {words}")
    return [cast(T, value) for _, value in answers]


def gather(value: T, group: Group = None) -> list[T]:
    """Every rank's value, in the order of the ranks; a plain value, not tensors."""
    if count(group) == 1:
        return [value]
    values: list[Any] = [None] * count(group)
    with talking(group):
        dist.all_gather_object(values, value, group)
    return values


@contextmanager
def talking(group: Group) -> Generator[None]:
    """What torch.distributed raises inside becomes a :class:`RankLostError`, in words."""
    with _talking(group, "the ranks can no longer talk to each other"):
        yield


@contextmanager
def _talking(group: Group, what: str) -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RankLostError(
            f"rank {rank(group)} of {count(group)}: {what}: {_who_is_lost(group)} ({first})."
        ) from error


def _who_is_lost(group: Group) -> str:
    """A guess in words, from a barrier that names who does not come (gloo has one)."""
    unknown = "another rank ended or does not answer"
    if not in_group() or dist.get_backend(group) != "gloo":
        return unknown
    try:
        dist.monitored_barrier(group, timeout=_TO_FIND_THE_LOST, wait_all_ranks=True)
    except RuntimeError as error:
        return f"{unknown}; {str(error).splitlines()[0]}"
    return unknown
