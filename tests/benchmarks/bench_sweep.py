"""What a sweep costs beside its trainings, and two workers against one: ``make bench`` writes it.

Workers are processes of one thread. By turns, medians.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from distributed import Client, LocalCluster

import atheria_lab as al

HERE = Path(__file__).parent
ROUNDS = 3
TASKS = 100
TINY = {
    "law": {"law": "MLP", "d_state": 2, "hidden": 3}, "size": 4, "steps": 1, "budget": "1 MiB",
    "measure": "never", "seed": range(TASKS),
}  # fmt: skip
# More than half a second each, on one thread; sixteen, so that two workers share them evenly.
LONG = {
    "law": {"law": "MLP", "d_state": 8, "hidden": 32}, "size": 32, "steps": 40,
    "budget": "4 MiB", "measure": "never", "episodes": 6, "seed": range(40),
}  # fmt: skip


def timed(space: dict[str, object], client: Client) -> tuple[float, float]:
    """Seconds of the sweep, results stored; and those that its trainings say they took."""
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        results = al.sweep(space, client, directory=folder, progress=False)
        return time.perf_counter() - start, sum(result.seconds for result in results)


def workers(count: int) -> LocalCluster:
    return LocalCluster(
        n_workers=count, threads_per_worker=1, host="127.0.0.1", memory_limit="4GiB",
        dashboard_address="127.0.0.1:0", env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def main() -> None:
    overheads: list[float] = []
    took: dict[int, list[float]] = {1: [], 2: []}
    each: dict[int, list[float]] = {1: [], 2: []}
    with (
        workers(1) as one,
        workers(2) as two,
        Client(one, set_as_default=False) as alone,
        Client(two, set_as_default=False) as pair,
    ):
        for client in (alone, pair):  # every worker has trained once
            timed({**LONG, "episodes": 1}, client)
        for _ in range(ROUNDS):
            whole, trained = timed(TINY, alone)
            overheads.append(1e3 * (whole - trained) / TASKS)
            for count, client in ((1, alone), (2, pair)):
                whole, trained = timed(LONG, client)
                took[count].append(whole)
                each[count].append(trained / len(LONG["seed"]))
    ratios = [a / b for a, b in zip(took[1], took[2], strict=True)]
    facts = {
        "overhead_ms": statistics.median(overheads),
        "overheads_ms": overheads,
        "seconds": {str(count): statistics.median(took[count]) for count in took},
        "seconds_each": {str(count): statistics.median(each[count]) for count in each},
        "ratios": ratios,
    }
    lines = [
        f"Sweeps on {os.cpu_count()} cores, torch {torch.__version__}, workers of one thread; "
        f"medians of {ROUNDS} interleaved rounds.",
        "",
        "| | measured | goal |",
        "| --- | ---: | ---: |",
        f"| overhead a task ({TASKS} tasks, results stored and synced) | "
        f"{facts['overhead_ms']:.1f} ms | 50 ms |",
        *(
            f"| 40 trainings, {count} worker{'s' * (count > 1)} (a training takes "
            f"{statistics.median(each[count]):.2f} s) | {statistics.median(took[count]):.1f} s | |"
            for count in took
        ),
        f"| two workers to one | {statistics.median(ratios):.2f}x | 1.8x |",
    ]
    (HERE / "sweep.md").write_text("\n".join(lines) + "\n")
    (HERE / "sweep.json").write_text(json.dumps(facts, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
