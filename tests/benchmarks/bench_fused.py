"""One step there and back, of an MLP at 256x256: ``make bench`` writes the table.

Eager PyTorch, ``torch.compile`` and the fused step, by turns; medians, and the bytes that each
saves for its backward pass.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import atheria_lab as al
from atheria_lab.fused import FusedStep

HERE = Path(__file__).parent
ROUNDS = 30
Function = Callable[[Tensor, int], Tensor]


def saved_bytes(step: Function, psi: Tensor) -> int:
    """Bytes of the storages that a step keeps for its backward pass, its psi not counted."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(psi, 0)
    storages.pop(psi.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def bench(d_state: int, hidden: int, size: int = 256) -> dict[str, object]:
    torch.manual_seed(0)
    law = al.laws.MLP(d_state, hidden)
    eager, fused = al.Step(law), FusedStep(law)
    compiled = torch.compile(eager.__call__, dynamic=False)
    psi = al.lattice.random(size, d_state).requires_grad_()
    gradient = torch.randn_like(psi)
    peers: dict[str, Function] = {"eager": eager, "compile": compiled, "fused": fused}
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(ROUNDS + 3):
        for name, step in peers.items():
            law.zero_grad()
            psi.grad = None
            start = time.perf_counter()
            step(psi, 0).backward(gradient)
            if turn >= 3:
                times[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * statistics.median(took) for name, took in times.items()}
    saved = {name: saved_bytes(peers[name], psi) for name in ("eager", "fused")}
    return {"law": f"MLP d{d_state} h{hidden}", "size": size, "ms": ms, "saved_bytes": saved}


def main() -> None:
    rows = [bench(8, 32), bench(16, 64)]
    lines = [
        f"One step there and back, 256x256, complex64, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; medians of {ROUNDS} interleaved rounds, in "
        "milliseconds.",
        "",
        "| law | eager | `torch.compile` | fused | to eager | to compile | saved, eager | fused |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ms, saved = row["ms"], row["saved_bytes"]
        lines.append(
            f"| {row['law']} | {ms['eager']:.1f} | {ms['compile']:.1f} | {ms['fused']:.1f} | "
            f"{ms['eager'] / ms['fused']:.1f}x | {ms['compile'] / ms['fused']:.1f}x | "
            f"{saved['eager'] / 2**20:.1f} MiB | {saved['fused'] / 2**20:.1f} MiB |"
        )
    (HERE / "fused.md").write_text("\n".join(lines) + "\n")
    (HERE / "fused.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
