"""What it costs to look: ``make bench`` writes the table.

The sampler's own CPU time at 10 Hz, as a part of one core, beside a training that runs; what an
``owner`` block costs while nobody looks; and what following every storage costs while one does.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from pathlib import Path

import torch

import atheria_lab as al
from atheria_lab.memory import Monitor, owner, track_peak

HERE = Path(__file__).parent
SECONDS = 20.0


class Timed(Monitor):
    """A monitor that counts the CPU time of its samples."""

    cpu_seconds = 0.0

    def sample(self) -> None:
        start = time.thread_time()
        super().sample()
        self.cpu_seconds += time.thread_time() - start


def sampler_share(trainer: al.Trainer) -> float:
    """The sampler's CPU time over the time that a training takes, at 10 Hz."""
    monitor = Timed(interval=0.1)
    start = time.perf_counter()
    with monitor:
        while time.perf_counter() - start < SECONDS:
            trainer.train_episode()
    return monitor.cpu_seconds / (time.perf_counter() - start)


def block_seconds() -> float:
    """An owner block that nobody follows."""
    runs = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(10_000):
            with owner("a"):
                pass
        runs.append((time.perf_counter() - start) / 10_000)
    return statistics.median(runs)


def tracking_ratio(trainer: al.Trainer) -> float:
    """An episode inside track_peak over one outside, medians of interleaved rounds."""
    ratios = []
    for _ in range(5):
        start = time.perf_counter()
        trainer.train_episode()
        middle = time.perf_counter()
        with track_peak():
            trainer.train_episode()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return statistics.median(ratios)


def main() -> None:
    torch.manual_seed(0)
    law = al.laws.Conv(d_state=8, hidden=32, activation="tanh")
    trainer = al.Trainer(law, size=64, steps=50, budget="16 MiB", measure="never")
    trainer.train_episode()
    results = {
        "sampler_share_of_a_core": sampler_share(trainer),
        "owner_block_seconds": block_seconds(),
        "tracking_ratio": tracking_ratio(trainer),
        "threads_left": threading.active_count() - 1,
    }
    lines = [
        f"Beside the quickstart's training (64x64, Conv, 50 steps); torch {torch.__version__}.",
        "",
        "| to look costs | |",
        "| --- | ---: |",
        f"| `Monitor` at 10 Hz, of one core | {results['sampler_share_of_a_core']:.3%} |",
        f"| an `owner` block while nobody looks | {results['owner_block_seconds'] * 1e6:.2f} µs |",
        f"| `track_peak`: an episode inside over one outside | {results['tracking_ratio']:.2f}x |",
    ]
    (HERE / "monitor.md").write_text("\n".join(lines) + "\n")
    (HERE / "monitor.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
