"""Rollouts that no machine could keep: ``make soak`` runs them and writes ``fused_long.md``.

10,000 steps of an MLP at 256x256 within 512 MiB, and 100,000 steps of a Brickwork at 128x128
within 64 MiB, there and back, in single precision. Their gradients are compared with plain autograd
in double precision on a shorter run.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

import atheria_lab as al
from atheria_lab.fused import FusedStep

HERE = Path(__file__).parent
CASES = (
    ("MLP d8 h32", lambda: al.laws.MLP(8, 32), 256, 10_000, "512 MiB"),
    ("Brickwork d8", lambda: al.laws.Brickwork(8), 128, 100_000, "64 MiB"),
)
SHORT = 200


def loss_of(states: list[Tensor]) -> Tensor:
    return sum(al.lattice.density(state).square().mean() for state in states)


def gradient(step: al.Step, psi: Tensor, steps: int, **plan: object) -> tuple[al.Rollout, Tensor]:
    step.law.zero_grad()
    out = al.rollout(step, psi, steps, al.SaveAt.at_most(10), loss=loss_of, **plan)
    loss_of(out.states).backward()
    flat = torch.cat([one.grad.reshape(-1).double() for one in step.law.parameters()])
    return out, flat


def error_on_a_short_run(law: torch.nn.Module, size: int, plan: object) -> float:
    """Relative, against plain autograd in double precision; on a lattice an eighth as wide."""
    psi = al.lattice.random(size // 8, law.d_state, dtype=torch.complex128)
    _, found = gradient(FusedStep(law), psi.to(torch.complex64), SHORT, plan=plan)
    _, exact = gradient(al.Step(law.double()), psi, SHORT)
    law.float()
    return float((found - exact).norm() / exact.norm())


def run(name: str, make: object, size: int, steps: int, budget: str) -> str:
    torch.manual_seed(0)
    law = make()
    step, psi = FusedStep(law), al.lattice.random(size, law.d_state)
    start = time.perf_counter()
    plan = al.plan_rollout(
        step, psi, steps, budget=budget, save_at=al.SaveAt.at_most(10), loss=loss_of
    )
    chosen = al.plans.Reversible() if step.unitary else plan.chosen.plan
    with al.memory.track_peak() as peak:
        out, _ = gradient(step, psi, steps, plan=chosen, budget=budget)
    seconds = time.perf_counter() - start
    keep_all = next(cost for cost in plan.costs if cost.plan == al.plans.StoreAll())
    plain = al.plan_rollout(al.Step(law), psi, steps, save_at=al.SaveAt.at_most(10), loss=loss_of)
    everything = next(cost for cost in plain.costs if cost.plan == al.plans.StoreAll())
    assert peak.peak_bytes <= al.memory.parse_size(budget), peak.peak_bytes
    gib = 2.0**30
    apart = error_on_a_short_run(law, size, chosen)
    back = out.reconstruction_error
    return (
        f"| {name} | {size}x{size} | {steps:,} | {everything.peak_bytes / gib:.0f} GiB | "
        f"{keep_all.peak_bytes / gib:.0f} GiB | {budget} | {peak.peak_bytes / 2**20:.1f} MiB | "
        f"{out.plan!r} | {seconds:.0f} s | {apart:.0e} | {'' if back is None else f'{back:.0e}'} |"
    )


def main() -> None:
    wanted = sys.argv[1:] or [name for name, *_ in CASES]
    rows = [run(*case) for case in CASES if any(case[0].startswith(one) for one in wanted)]
    lines = [
        f"Rollouts there and back, complex64, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads. Every step kept, by plain autograd and by the fused "
        "step: predicted; the rest measured. The gradient's relative error is that of a run of "
        f"{SHORT} steps on a smaller lattice, against double precision; the state's is the "
        "largest of a state that the inverse made again.",
        "",
        "| law | lattice | steps | kept, autograd | kept, fused | budget | measured | plan | time "
        "| gradient's error | state's error |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
        *rows,
    ]
    print("\n".join(lines))
    if len(rows) == len(CASES):
        (HERE / "fused_long.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
