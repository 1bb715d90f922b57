"""Peak and time of training rollouts, side by side: ``make bench`` writes the tables.

Every row is one forward and backward pass of the same rollout with the same loss, in a process
of its own rounds: the rows are interleaved, the medians are compared. Peaks are of tensors, by
``track_peak``, in a round that is not timed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint

import atheria_lab as al
from atheria_lab.fused import FusedStep

HERE = Path(__file__).parent
ROUNDS = 3
MIB = 2**20


def loss_of(states: list[torch.Tensor]) -> torch.Tensor:
    return sum(al.lattice.density(psi).square().mean() for psi in states)


def torch_checkpoint(step: al.Step, psi: torch.Tensor, steps: int, keep: tuple[int, ...]) -> None:
    """The usual way: torch.utils.checkpoint over segments of 20 steps."""

    def segment(psi: torch.Tensor, start: int, end: int) -> tuple[torch.Tensor, ...]:
        kept = []
        for i in range(start, end):
            psi = step(psi, i)
            if i + 1 in keep:
                kept.append(psi)
        return (psi, *kept)

    states = []
    for start in range(0, steps, 20):
        psi, *kept = checkpoint(segment, psi, start, min(start + 20, steps), use_reentrant=False)
        states += kept
    loss_of(states).backward()


def rows(size: int, steps: int) -> dict[str, Callable[[], None]]:
    torch.manual_seed(0)
    law = al.laws.MLP(d_state=8, hidden=32)
    step, fused = al.Step(law), FusedStep(law)
    psi = al.lattice.random(size, d_state=8)
    ten = al.SaveAt.at_most(10)

    def ours(plan: al.plans.Plan, keep_all: bool = False, step: al.Step = step) -> None:
        law.zero_grad()
        save_at = al.SaveAt.all() if keep_all else ten
        out = al.rollout(step, psi, steps, save_at, plan)
        wanted = ten.resolve(steps)
        loss_of([out.states[out.indices.index(index)] for index in wanted]).backward()

    def peer() -> None:
        law.zero_grad()
        torch_checkpoint(step, psi, steps, ten.resolve(steps))

    def within(step: al.Step, budgets: tuple[str, ...]) -> dict[str, al.plans.Plan]:
        return {
            text: al.plan_rollout(step, psi, steps, text, ten, loss=loss_of).plan
            for text in budgets
        }

    return {
        "every state kept": lambda: ours(al.plans.StoreAll(), keep_all=True),
        "psi_history thinned to 10": lambda: ours(al.plans.StoreAll()),
        "torch.utils.checkpoint, 20 steps": peer,
        **{
            f"budget {text}: {plan!r}": (lambda plan=plan: ours(plan))
            for text, plan in within(step, ("128 MiB", "64 MiB", "40 MiB")).items()
        },
        "fused step, thinned to 10": lambda: ours(al.plans.StoreAll(), step=fused),
        **{
            f"fused step, budget {text}: {plan!r}": (lambda plan=plan: ours(plan, step=fused))
            for text, plan in within(fused, ("128 MiB", "64 MiB", "32 MiB")).items()
        },
    }


def main() -> None:
    size, steps = 128, 400
    runs = rows(size, steps)
    peaks, times = {}, {name: [] for name in runs}
    for name, run in runs.items():
        with al.memory.track_peak() as peak:
            run()
        peaks[name] = peak.peak_bytes
        print(f"{peaks[name] / MIB:9.1f} MiB  {name}", file=sys.stderr)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    base = "psi_history thinned to 10"
    table = [
        {
            "name": name,
            "peak_mib": round(peaks[name] / MIB, 1),
            "seconds": round(statistics.median(times[name]), 2),
            "peak_ratio": round(peaks[name] / peaks["every state kept"], 4),
            "time_ratio": round(
                statistics.median(a / b for a, b in zip(times[name], times[base], strict=True)),
                2,
            ),
        }
        for name in runs
    ]
    lines = [
        f"{steps} steps, {size}x{size}, d_state 8, MLP with 32 hidden, loss on 10 states; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {ROUNDS} "
        "interleaved rounds; times against the thinned history.",
        "",
        "| | peak | of every state kept | time | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {row['name']} | {row['peak_mib']:,.1f} MiB | {row['peak_ratio']:.1%} | "
            f"{row['seconds']:.2f} s | {row['time_ratio']:.2f} |"
            for row in table
        ),
    ]
    (HERE / "rollout.md").write_text("\n".join(lines) + "\n")
    (HERE / "rollout.json").write_text(json.dumps(table, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
