"""100,000 steps with snapshots, history, series and log: ``make soak`` draws their memory.

At the end the memory beside what the limits keep is that of step 1,000, to 1 % and 1 MiB.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "snapshots"))
from flat import Reading, run  # noqa: E402

STEPS = 100_000
MIB = 2**20
INK = "#808890"


def say(reading: Reading) -> None:
    if reading.step % 10_000 == 0 or reading.step == 1000:
        sizes = (reading.tensors, reading.heap, reading.store, reading.history)
        cells = "  ".join(f"{size / MIB:9.2f}" for size in sizes)
        print(f"{reading.step:8,}  {cells}  {reading.heap_beside / MIB:9.2f}", flush=True)


def draw(readings: list[Reading]) -> None:
    x = [reading.step for reading in readings]
    start = readings[0].heap_beside
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    axes = figure.subplots()
    beside = [(r.heap_beside - start) / MIB for r in readings]
    axes.stackplot(
        x, [r.store / MIB for r in readings], [r.history / MIB for r in readings],
        labels=["snapshots in host memory (budget 32 MiB)", "history, 500 frames"],
        colors=["#2f6db3", "#9db8d9"],
    )  # fmt: skip
    axes.plot(
        x, beside, color="#d9534f", linewidth=2, label="all else in the heap, since step 1,000"
    )
    axes.set_ylabel("MiB", color=INK)
    axes.set_xlabel("steps", color=INK)
    axes.set_xticks(range(0, STEPS + 1, 20_000), [f"{t:,}" for t in range(0, STEPS + 1, 20_000)])
    axes.set_ylim(min(-2, *beside), 48)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.legend(loc="upper center", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    canvas = FigureCanvasAgg(figure)
    canvas.figure.savefig(HERE / "flat.png", dpi=120, transparent=True)


def main() -> None:
    print("   steps    tensors       heap      store    history  heap beside   (MiB)")
    readings = run(STEPS, report=say)
    draw(readings)
    first, last = readings[0], readings[-1]
    for name in ("tensors_beside", "heap_beside"):
        before, after = getattr(first, name), getattr(last, name)
        assert abs(after - before) <= 0.01 * before + MIB, (name, before, after)
    # And once everything is full, all of it.
    full = next(r for r in readings if r.step > STEPS // 2)
    assert abs(last.heap - full.heap) <= 0.01 * full.heap + MIB, (full, last)
    print("flat:", HERE / "flat.png")


if __name__ == "__main__":
    main()
