"""10,000 steps of a 64x64 lattice train within 64 MiB: ``make soak`` runs it, a minute or two."""

from __future__ import annotations

import torch

import atheria_lab as al

BUDGET = 64 * 2**20


def main() -> None:
    torch.manual_seed(0)
    trainer = al.Trainer(al.laws.MLP(d_state=8, hidden=32), 64, 10_000, BUDGET)
    print(trainer.plan_rollout())
    report = trainer.train_episode()
    print(report)
    assert report.peak_bytes is not None
    assert report.peak_bytes <= BUDGET, report
    assert abs(report.predicted_bytes / report.peak_bytes - 1) <= 0.05, report
    assert not report.skipped, report


if __name__ == "__main__":
    main()
