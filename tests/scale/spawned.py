"""Real processes on loopback that work as the ranks of one group (gloo)."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import traceback
from collections.abc import Callable
from queue import Empty
from typing import Any

import torch
import torch.multiprocessing as mp

SECONDS = 120


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun sets, and one thread a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def on_ranks(ranks: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``work(*arguments)`` on every rank of a group; each rank's result, or what it raised.

    A result is a plain value; an exception comes back as ``(type's name, words)``. A rank that
    ends without a word comes back as ``None``.
    """
    context = mp.get_context("spawn")
    port, queue = free_port(), context.Queue()
    children = [
        context.Process(target=_child, args=(rank, ranks, port, queue, work, arguments))
        for rank in range(ranks)
    ]
    for child in children:
        child.start()
    results: list[Any] = [None] * ranks
    end = time.monotonic() + SECONDS
    try:
        while any(child.is_alive() for child in children) and time.monotonic() < end:
            _take(queue, results)
        _take(queue, results)
    finally:
        for child in children:
            child.kill()
            child.join()
        queue.close()
    return results


def _take(queue: Any, results: list[Any]) -> None:
    with contextlib.suppress(Empty):
        while True:
            rank, result = queue.get(timeout=0.05)
            results[rank] = result


def _child(
    rank: int, ranks: int, port: int, queue: Any, work: Callable[..., Any], arguments: Any
) -> None:
    os.environ.update(environment(rank, ranks, port))
    torch.set_num_threads(1)
    from atheria_lab.scale.ranks import joined

    try:
        with joined(timeout=SECONDS / 2):
            queue.put((rank, work(*arguments)))
    except Exception as error:
        traceback.print_exc()
        queue.put((rank, (type(error).__name__, str(error))))
