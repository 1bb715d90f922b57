"""A lattice split over 1 to 4 processes of one thread: bytes, and weak scaling.

``make bench`` writes the table. Bytes are counted where they are handed to torch.distributed, and
compared with the formula. Weak scaling: every rank owns as many rows, whatever their number; the
efficiency is the time of one process over the time of two, side by side, medians.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import atheria_lab as al
from atheria_lab.scale.halo import SplitStep
from atheria_lab.scale.ranks import joined

HERE = Path(__file__).parent
ROWS, WIDTH, D_STATE, HIDDEN = 256, 256, 8, 32
STEPS, ROUNDS = 8, 5
LAWS = {
    "MLP": lambda: al.laws.MLP(D_STATE, HIDDEN),
    "Conv": lambda: al.laws.Conv(D_STATE, HIDDEN),
    "Brickwork": lambda: al.laws.Brickwork(D_STATE),
}
EVERY = {"MLP": (1,), "Conv": (1, 4), "Brickwork": (1,)}


def formula(split: SplitStep, batch: int = 1) -> tuple[float, float]:
    """Bytes that a rank sends in a step forward: rows of the halo, sums over rows."""
    item = 8  # complex64
    ranks, rows = split.ring.size, max(split.rows.counts)
    others = ranks > 1
    edges = 2 * split.halo / split.exchange_every * batch * WIDTH * D_STATE * item * others
    sums = (ranks - 1) * batch * rows * 4 if split.step.norm == "lattice" else 0
    return edges, sums


def handed(split: SplitStep, psi: torch.Tensor) -> float:
    """Bytes that a rank hands to torch.distributed in a step, counted there."""
    total = 0
    swap, gather = dist.batch_isend_irecv, dist.all_gather

    def counting_swap(calls: Any) -> Any:
        nonlocal total
        total += sum(call.tensor.nbytes for call in calls if call.op is dist.isend)
        return swap(calls)

    def counting_gather(found: Any, tensor: torch.Tensor, group: Any = None) -> Any:
        nonlocal total
        total += (len(found) - 1) * tensor.nbytes
        return gather(found, tensor, group)

    dist.batch_isend_irecv, dist.all_gather = counting_swap, counting_gather
    try:
        state = split.initial(psi)
        for i in range(split.exchange_every, 2 * split.exchange_every):
            state = split(state, i)
    finally:
        dist.batch_isend_irecv, dist.all_gather = swap, gather
    return total / split.exchange_every


def turns(rank: int, ranks: int, port: int, queue: Any) -> None:
    """One rank: by turns, steps of a lattice of its own alone and of one split over all."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    torch.set_num_threads(1)
    found = []
    with joined(), torch.no_grad():
        alone = [dist.new_group([one]) for one in range(ranks)][rank]
        for name, make in LAWS.items():
            for every in EVERY[name] if ranks < 3 else (1,):
                torch.manual_seed(0)
                step = al.Step(make())
                # The same blocks in both: the work of a rank is then the same.
                block = None if every > 1 else 8
                options = {"exchange_every": every, "block": block}
                split = SplitStep(step, ROWS * ranks, **options)
                own = SplitStep(step, ROWS, group=alone, **options)
                psi = al.lattice.random((ROWS, WIDTH), D_STATE, seed=rank)
                times: dict[str, list[float]] = {"own": [], "together": []}
                for turn in range(ROUNDS + 1):
                    # All at once in both, so that both share the machine with as many processes.
                    for kind, mover in (("own", own), ("together", split)):
                        state = mover.initial(psi)
                        dist.barrier()
                        start = time.perf_counter()
                        for i in range(every, every + STEPS):
                            state = mover(state, i)
                        dist.barrier()
                        if turn:
                            times[kind].append((time.perf_counter() - start) / STEPS)
                edges, sums = formula(split)
                found.append(
                    {
                        "law": name,
                        "ranks": ranks,
                        "exchange_every": every,
                        "halo": split.halo,
                        "bytes_formula": edges + sums,
                        "bytes_counted": handed(split, psi),
                        "ms_alone": 1e3 * statistics.median(times["own"]),
                        "ms_together": 1e3 * statistics.median(times["together"]),
                    }
                )
    if rank == 0:
        queue.put(found)


def whole_step() -> dict[str, float]:
    """Milliseconds of ``al.Step``, and of a SplitStep in one process, by turns, one thread."""
    torch.set_num_threads(1)
    found = {}
    with torch.no_grad():
        for name, make in LAWS.items():
            step = al.Step(make())
            split, psi = SplitStep(step, WIDTH), al.lattice.random(WIDTH, D_STATE)
            times: dict[str, list[float]] = {"step": [], "split": []}
            for _ in range(15):
                for kind, mover in (("step", step), ("split", split)):
                    start = time.perf_counter()
                    mover(psi, 1)
                    times[kind].append(1e3 * (time.perf_counter() - start))
            found[name] = {kind: statistics.median(took) for kind, took in times.items()}
    return found


def on_ranks(ranks: int) -> list[dict[str, Any]]:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(turns, (ranks, port, queue), nprocs=ranks)
    found: list[dict[str, Any]] = queue.get()
    return found


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    whole = whole_step()
    rows = [row for ranks in (1, 2, 3, 4) for row in on_ranks(ranks)]
    lines = [
        f"Steps without gradients; each rank owns {ROWS} rows of {WIDTH} cells, d_state {D_STATE}, "
        f"hidden {HIDDEN}, complex64; one thread a process, gloo on loopback, {cores} cores, torch "
        f"{torch.__version__}, {platform.machine()}. Medians of {ROUNDS} rounds of {STEPS} steps "
        "by turns: every process alone with its rows (at the same time), and all with one "
        "lattice. With more processes than cores, both kinds of turn share the cores.",
        "",
        "| law | ranks | k | bytes a step, formula | counted | ms, alone | ms, together | "
        "efficiency |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        row["efficiency"] = row["ms_alone"] / row["ms_together"]
        lines.append(
            f"| `{row['law']}` | {row['ranks']} | {row['exchange_every']} | "
            f"{row['bytes_formula']:,.0f} | {row['bytes_counted']:,.0f} | {row['ms_alone']:.1f} | "
            f"{row['ms_together']:.1f} | {row['efficiency']:.2f} |"
        )
    lines += [
        "",
        "A rank sends `2 r B W d_state 8` bytes a step for the edges (r rows to each side, "
        'complex64; for any k, if the blocks have r rows) and, under the norm "lattice", '
        "`(N - 1) B h 4` for the sums over its h rows. Back through a step the edges' gradients "
        "travel the other way, as many bytes, and `(N - 1) B 4` for the norm.",
        "",
        f"One process, {WIDTH}x{WIDTH}, milliseconds a step: "
        + "; ".join(
            f"`{name}` {took['step']:.1f} as `Step`, {took['split']:.1f} as `SplitStep`"
            for name, took in whole.items()
        )
        + ".",
    ]
    (HERE / "scale.md").write_text("\n".join(lines) + "\n")
    (HERE / "scale.json").write_text(json.dumps({"ranks": rows, "whole": whole}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
