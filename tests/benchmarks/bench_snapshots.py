"""Snapshots: what they cost a run, how fast they are read and written, how far they compress.

``make bench`` runs it and writes snapshots.md and snapshots.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import atheria_lab as al
from atheria_lab.snapshots import Lossy

HERE = Path(__file__).parent
MB = 1e6


def seconds(call, *arguments):
    """How long a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def law_of(name, d_state):
    """A law with weights that are the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        laws = {"MLP": al.laws.MLP, "Conv": al.laws.Conv, "Brickwork": al.laws.Brickwork}
        return laws[name](d_state) if name == "Brickwork" else laws[name](d_state, 32)


def bench_cost(repeats):
    """Stepping 100 steps at 256x256 with one snapshot and without, by turns."""
    rows = []
    for name, backend in (("MLP", "native"), ("MLP", "torch")):
        for where in ("memory", "disk"):
            with tempfile.TemporaryDirectory() as folder:
                place = {} if where == "memory" else {"directory": folder}
                engine = al.Engine(
                    law_of(name, 8), al.lattice.random(256, 8, seed=0), backend=backend
                )
                with engine, al.SnapshotStore(4, **place) as store:
                    engine.step(20)
                    plain, added, blocked = [], [], []
                    for i in range(repeats):
                        # By turns also in which comes first.
                        if i % 2:
                            plain.append(seconds(engine.step, 100))
                        # The write of this snapshot goes on beside the steps that follow it, so
                        # those are counted with it.
                        blocked.append(seconds(store.add, engine))
                        added.append(blocked[-1] + seconds(engine.step, 100))
                        store.flush()
                        if not i % 2:
                            plain.append(seconds(engine.step, 100))
                rows.append(
                    {
                        "law": name,
                        "backend": backend,
                        "where": where,
                        "steps_s": statistics.median(plain),
                        "add_ms": 1e3 * statistics.median(blocked),
                        "add_share": statistics.median(blocked) / statistics.median(plain),
                        "cost": statistics.median(added) / statistics.median(plain) - 1,
                    }
                )
    return rows


def bench_read(repeats):
    """Milliseconds of a random read of a 256x256x16 state from disk, its pages in the cache."""
    result = {}
    for compression in (None, "zstd", "pcodec"):
        with tempfile.TemporaryDirectory() as folder:
            engine = al.Engine(law_of("Conv", 16), al.lattice.random(256, 16, seed=0))
            with engine, al.SnapshotStore(directory=folder, compression=compression) as store:
                for _ in range(20):
                    engine.step()
                    store.add(engine)
            chance = np.random.default_rng(0)
            with al.SnapshotStore(directory=folder, readonly=True) as store:
                for snapshot in store:
                    snapshot.read()
                places = chance.integers(20, size=repeats)
                times = [seconds(store[int(place)].read) for place in places]
            key = compression or "none"
            result[key] = {
                "median_ms": 1e3 * statistics.median(times),
                "p95_ms": 1e3 * float(np.quantile(times, 0.95)),
            }
    return result


def bench_write(repeats):
    """Megabytes of raw state a second, beside ``np.save`` of the same psi, by turns."""
    psi = al.lattice.random(512, 16, seed=0)
    array = psi.numpy()
    with (
        tempfile.TemporaryDirectory() as folder,
        al.Engine(law_of("MLP", 16), psi, backend="torch") as engine,
        al.SnapshotStore(2, directory=f"{folder}/full") as full,
        al.SnapshotStore(2, directory=f"{folder}/process", sync="process") as process,
    ):

        def snapshot(store):
            store.add(engine)
            store.flush()

        def save(sync):
            with open(f"{folder}/{time.monotonic_ns()}.npy", "xb") as file:
                np.save(file, array)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            if len(saved := sorted(Path(folder).glob("*.npy"))) > 2:
                saved[0].unlink()

        calls = {
            "store, sync=process": lambda: snapshot(process),
            "np.save": lambda: save(False),
            "store, sync=full": lambda: snapshot(full),
            "np.save, fsync": lambda: save(True),
        }
        times = {name: [] for name in calls}
        for i in range(repeats + 1):
            for name, call in calls.items():
                took = seconds(call)
                if i:
                    times[name].append(took)
    return {name: psi.nbytes / MB / statistics.median(each) for name, each in times.items()}


def bench_ratios():
    """Raw bytes by bytes in the file, and seconds to write, of psi after 300 steps."""
    rows = []
    for name in ("MLP", "Conv", "Brickwork"):
        for start in ("gaussian", "random"):
            psi = (
                al.lattice.random(256, 8, seed=0)
                if start == "random"
                else al.lattice.gaussian(256, 8, width=0.1, wave=(2, 3))
            )
            with al.Engine(law_of(name, 8), psi) as engine:
                engine.step(300)
                row = {"law": name, "start": start, "largest": float(engine.psi.abs().max())}
                for compression in ("zstd", "pcodec", Lossy(1e-3), Lossy(1e-5)):
                    with tempfile.TemporaryDirectory() as folder:
                        options = {"sync": "process", "compression": compression}
                        with al.SnapshotStore(directory=folder, **options) as store:
                            store.add(engine)
                            took = seconds(store.flush)
                            row[str(compression)] = {
                                "ratio": psi.nbytes / store.nbytes.disk,
                                "mb_s": psi.nbytes / MB / took,
                            }
            rows.append(row)
    return rows


def table(result):
    """The result in Markdown."""
    lines = [
        "# Snapshots",
        "",
        f"{result['cores']} cores, {result['threads']} threads, PyTorch {result['torch']}, "
        f"load {result['load_at_start']:.1f} at the start; medians, by turns where two are "
        "compared.",
        "",
        "One snapshot every 100 steps of a 256x256 lattice, d_state 8 (4 MiB). `add` is the time "
        "that stepping stands still; the whole also has what the writing thread takes from the "
        "100 steps after it.",
        "",
        "| law | backend | kept in | 100 steps | `add` | of stepping | the whole |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in result["cost"]:
        lines.append(
            f"| {row['law']} | {row['backend']} | {row['where']} | {row['steps_s']:.2f} s "
            f"| {row['add_ms']:.1f} ms | {row['add_share']:.2%} | {row['cost']:+.2%} |"
        )
    if result["load_at_start"] >= 0.3:
        lines += [
            "",
            "**The machine was busy: `the whole` means little, `add` is an upper bound.**",
        ]
    lines += [
        "",
        "Random read of a 256x256x16 state (8 MiB) from disk, warm, checksum included:",
        "",
    ]
    lines += ["| compression | median | 95 % |", "| --- | ---: | ---: |"]
    for name, row in result["read"].items():
        lines.append(f"| {name} | {row['median_ms']:.1f} ms | {row['p95_ms']:.1f} ms |")
    lines += ["", "Writing a 512x512x16 state (32 MiB), one after the other, each waited for:", ""]
    lines += ["| | raw MB/s |", "| --- | ---: |"]
    for name, rate in result["write"].items():
        lines.append(f"| {name} | {rate:.0f} |")
    names = list(result["ratios"][0])[3:]
    lines += [
        "",
        "How many times smaller psi gets after 300 steps, 256x256x8 (MB/s of raw state):",
        "",
        "| law | start | largest amplitude | " + " | ".join(f"`{name}`" for name in names) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(names),
    ]
    for row in result["ratios"]:
        cells = " | ".join(f"{row[name]['ratio']:.2f} ({row[name]['mb_s']:.0f})" for name in names)
        lines.append(f"| {row['law']} | {row['start']} | {row['largest']:.2g} | {cells} |")
    return "\n".join([*lines, ""])


def main():
    """Measure all, write the files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    result = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_at_start": os.getloadavg()[0],
        "cost": bench_cost(options.repeats),
        "read": bench_read(10 * options.repeats),
        "write": bench_write(options.repeats),
        "ratios": bench_ratios(),
    }
    (options.out / "snapshots.json").write_text(json.dumps(result, indent=2) + "\n")
    text = table(result)
    (options.out / "snapshots.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
