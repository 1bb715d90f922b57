"""Fused steps beside PyTorch's: ratios, the processor's peak, and the cost of a cell by size.

Run by ``make bench``. It writes ``native.json``, ``native.md`` and ``native.png`` (a roofline)
beside itself. Every ratio is of medians of interleaved repeats: one repeat of each peer, then
again, so that a busy moment of the machine falls on all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from atheria_lab import _native, lattice, native
from atheria_lab.engine import Engine
from atheria_lab.laws import MLP, Brickwork, Conv
from atheria_lab.step import Step

HERE = Path(__file__).parent
GOALS = {"MLP d8 h32": 4.0, "MLP d16 h64": 4.0, "Conv d8 h32": 3.0, "Brickwork d8": 5.0}
LAWS = {
    "MLP d8 h32": lambda: MLP(8, 32),
    "MLP d16 h64": lambda: MLP(16, 64),
    "Conv d8 h32": lambda: Conv(8, 32),
    "Brickwork d8": lambda: Brickwork(8),
}
SIZES = (64, 128, 256, 512, 1024, 2048)


def seconds(call):
    """Wall seconds of one call, after a rest: OpenMP's threads spin for some milliseconds."""
    time.sleep(0.02)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(calls, repeats):
    """Median seconds of each call, the repeats interleaved."""
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(values) for name, values in times.items()}


def matrix_flops(law):
    """Floating-point operations of a law's matrices, for one cell."""
    d = law.d_state
    if isinstance(law, Brickwork):
        return 2 * (8 * d) ** 2 * 2 // 4
    taps = 9 if isinstance(law, Conv) else 1
    hidden = law.config()["hidden"]
    return 2 * (2 * d * hidden * taps + hidden * 2 * d)


def fused(law, psi, steps):
    """A call that makes some steps on the native backend."""
    engine = Engine(law, psi, backend="native")
    engine.step()
    return lambda: engine.step(steps)


def in_threads(call, count):
    """The call with another number of threads."""

    def run():
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            call()
        finally:
            torch.set_num_threads(before)

    return run


@torch.no_grad()
def bench_law(name, size, steps, repeats, threads):
    """One law on a lattice: milliseconds a step of each peer, and the parts that follow."""
    law = LAWS[name]()
    psi = lattice.random(size, law.d_state)
    step = Step(law)
    compiled = torch.compile(step.__call__, dynamic=False)
    for _ in range(3):
        compiled(psi, 1)
        step(psi, 0)
    native_steps = fused(law, psi, steps)

    def eager():
        state = psi
        for i in range(steps):
            state = step(state, i)

    def compile_():
        state = psi
        for _ in range(steps):
            state = compiled(state, 1)  # one index: each new one would be compiled anew

    rounds = 3_000_000
    peak_seconds = {}
    calls = {
        "eager": eager,
        "compile": compile_,
        "native": native_steps,
        "native, 1 thread": in_threads(native_steps, 1),
        "peak": lambda: peak_seconds.setdefault("flops", []).append(_native.peak(False, rounds)),
    }
    found = medians(calls, repeats)
    ms = {peer: 1e3 * found[peer] / steps for peer in calls if peer != "peak"}
    peak = statistics.median(peak_seconds["flops"])
    flops = matrix_flops(law) * size * size
    fastest = min(ms["eager"], ms["compile"])
    return {
        "law": name,
        "size": size,
        "ms": ms,
        "ratio": fastest / ms["native"],
        "goal": GOALS[name],
        "threads_speedup": ms["native, 1 thread"] / ms["native"],
        "gflops": flops / ms["native"] / 1e6,
        "gflops_1_thread": flops / ms["native, 1 thread"] / 1e6,
        "peak_gflops_1_thread": peak / 1e9,
        "flops_per_byte": flops / (size * size * law.d_state * 8 * 2),
    }


def bench_matrix_part(name, repeats):
    """The share of the peak that the matrices alone reach: relu costs next to nothing."""
    law = LAWS[name]()
    law.activation = "relu"
    psi = lattice.random(64, law.d_state)
    steps = 40
    call = in_threads(fused(law, psi, steps), 1)
    peaks = []
    calls = {"native": call, "peak": lambda: peaks.append(_native.peak(False, 1_000_000))}
    found = medians(calls, repeats)["native"] / steps
    return matrix_flops(law) * 64 * 64 / found / statistics.median(peaks)


def bench_sizes(name, repeats):
    """Nanoseconds a cell by the lattice's side."""
    law = LAWS[name]()
    calls, cells = {}, {}
    for size in SIZES:
        steps = max(1, 2**20 // size**2)
        calls[size] = fused(law, lattice.random(size, law.d_state), steps)
        cells[size] = size * size * steps
    found = medians(calls, repeats)
    return {str(size): 1e9 * found[size] / cells[size] for size in SIZES}


INTERRUPTED = """
import sys, time
from atheria_lab import lattice
from atheria_lab.engine import Engine
from atheria_lab.laws import MLP

engine = Engine(MLP(8, 32), lattice.random(int(sys.argv[1]), 8), backend="native")
engine.step(1)
for _ in range(int(sys.argv[2])):
    print("ready", flush=True)
    try:
        engine.step(10**9)
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
"""


def interruptions(size, tries):
    """Milliseconds from Ctrl-C to the exception, for each of some tries in a process of its own."""
    waits = []
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(size), str(tries)],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        for attempt in range(tries):
            child.stdout.readline()
            time.sleep(0.2 + 0.0037 * attempt)  # at another moment of its round each time
            asked = time.monotonic()
            child.send_signal(signal.SIGINT)
            waits.append(1e3 * (float(child.stdout.readline()) - asked))
    return {"median_ms": statistics.median(waits), "worst_ms": max(waits), "tries": tries}


def bandwidth(repeats):
    """Bytes a second that a copy reads and writes, all threads, far beyond the caches."""
    source = torch.zeros(1 << 26)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / medians({"copy": lambda: target.copy_(source)}, repeats)["copy"]


def busy_note(result):
    """A warning where other programs ran: PyTorch's OpenMP suffers from them most."""
    load = result["load_at_start"]
    if load is None or load < 0.3:
        return ""
    return f"**The machine was busy (load {load:.1f} at the start): these ratios mean little.** "


def table(result):
    """The result in Markdown."""
    lines = [
        "# Fused steps",
        "",
        f"{result['processor']}, {result['threads']} threads, {result['isa']}; "
        f"PyTorch {result['torch']}; complex64, norm lattice (Brickwork: none). "
        "Medians of interleaved repeats, milliseconds a step; the ratio is to the faster of "
        "eager and `torch.compile`.",
        "",
        "| law | lattice | eager | compile | native | native, 1 thread | ratio | goal "
        "| GFLOP/s | of 1-thread peak, 1 thread |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["laws"]:
        ms = row["ms"]
        share = row["gflops_1_thread"] / row["peak_gflops_1_thread"]
        lines.append(
            f"| {row['law']} | {row['size']}x{row['size']} | {ms['eager']:.2f} "
            f"| {ms['compile']:.2f} | {ms['native']:.2f} | {ms['native, 1 thread']:.2f} "
            f"| **{row['ratio']:.1f}x** | {row['goal']:.0f}x | {row['gflops']:.0f} "
            f"| {share:.0%} |"
        )
    lines += [
        "",
        busy_note(result),
        "GFLOP/s count the operations of the law as it is written; Conv (Winograd: 4/9 of its "
        "3x3's) and Brickwork (Gauss: 3/4) do fewer. "
        f"Measured peak of one thread: {result['peak_gflops_1_thread']:.0f} GFLOP/s; copy "
        f"bandwidth: {result['bandwidth_gb_s']:.1f} GB/s. Matrix part alone (relu instead of "
        "silu, one thread, 64x64): "
        + ", ".join(f"{name} {share:.0%} of the peak" for name, share in result["matrix"].items())
        + ".",
        "",
        "From Ctrl-C to the exception, in a run of 10^9 steps at 1024x1024: "
        f"{result['interrupt']['median_ms']:.0f} ms in the median, "
        f"{result['interrupt']['worst_ms']:.0f} ms at worst, of {result['interrupt']['tries']} "
        "tries (the promise: 100 ms).",
        "",
        "Nanoseconds a cell by the lattice's side, all threads:",
        "",
        "| law | " + " | ".join(map(str, SIZES)) + " | spread |",
        "| --- |" + " --- |" * (len(SIZES) + 1),
    ]
    for name, row in result["sizes"].items():
        spread = max(row.values()) / min(row.values()) - 1
        cells = " | ".join(f"{row[str(size)]:.1f}" for size in SIZES)
        lines.append(f"| {name} | {cells} | {spread:.0%} |")
    return "\n".join([*lines, ""])


def roofline(result, path):
    """What each law reaches beside what the processor and its memory allow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    peak = result["peak_gflops_1_thread"] * result["threads"]
    memory = result["bandwidth_gb_s"]
    x = [1, peak / memory, 200]
    roof = [memory * x[0], peak, peak]
    axes.loglog(x, roof, color="0.35", linewidth=2)
    axes.fill_between(x, roof, 2 * peak, color="0.93", zorder=0)
    axes.text(x[1] * 1.15, peak * 1.08, f"peak {peak:.0f} GFLOP/s", va="bottom", color="0.35")
    axes.text(2.1, memory * 1.9, f"memory {memory:.0f} GB/s", va="top", color="0.35")
    # Two laws have the same intensity: the later is drawn to the right, so that none hides another.
    crowd = {}
    for row in result["laws"]:
        twins = crowd[row["flops_per_byte"]] = crowd.get(row["flops_per_byte"], -1) + 1
        at = row["flops_per_byte"] * 1.35**twins
        best = min(row["ms"]["eager"], row["ms"]["compile"])
        before = row["gflops"] * row["ms"]["native"] / best
        (dot,) = axes.plot(at, row["gflops"], "o", markersize=9)
        color = dot.get_color()
        axes.plot(at, before, "o", markersize=8, markerfacecolor="white", color=color)
        axes.annotate(
            "",
            (at, row["gflops"] / 1.06),
            (at, before * 1.07),
            arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.5},
        )
        axes.annotate(
            f"{row['law']}\n{row['ratio']:.1f}x",
            (at, before),
            xytext=(8 if twins else -8, 0),
            textcoords="offset points",
            ha="left" if twins else "right",
            va="center",
            color=color,
            fontsize="small",
        )
    axes.set_xlim(1, 200)
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100, 200])
    axes.set_yticks([20, 50, 100, 200, 500])
    axes.set_ylim(10, 2 * peak)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.tick_params(which="minor", labelleft=False, labelbottom=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("matrix operations per byte of psi read and written (FLOP/byte)")
    axes.set_ylabel("matrix operations, counted as the law is written (GFLOP/s)")
    axes.set_title(
        f"From the faster of eager and torch.compile (open) to native (filled), "
        f"{result['threads']} threads",
        fontsize="medium",
    )
    figure.savefig(path, dpi=150)


def processor():
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return next(line.split(":")[1].strip() for line in info if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    """Measure all, write the files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--no-sizes", action="store_true", help="leave out the cost by size")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    threads = torch.get_num_threads()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    laws = [bench_law(name, options.size, 10, options.repeats, threads) for name in LAWS]
    result = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "isa": native.isa(),
        "torch": torch.__version__,
        "load_at_start": load,
        "peak_gflops_1_thread": statistics.median(row["peak_gflops_1_thread"] for row in laws),
        "bandwidth_gb_s": bandwidth(options.repeats) / 1e9,
        "laws": laws,
        "matrix": {
            name: bench_matrix_part(name, options.repeats) for name in LAWS if "MLP" in name
        },
        "interrupt": interruptions(1024, 20),
        "sizes": {}
        if options.no_sizes
        else {name: bench_sizes(name, max(3, options.repeats // 3)) for name in LAWS},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "native.json").write_text(json.dumps(result, indent=2) + "\n")
    text = table(result)
    (options.out / "native.md").write_text(text)
    roofline(result, options.out / "native.png")
    print(text)


if __name__ == "__main__":
    main()
