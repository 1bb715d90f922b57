"""One step there and back at 256x256: ``make bench`` writes the table.

Eager PyTorch, ``torch.compile`` and the fused step, by turns; medians, the bytes that each saves
for its backward pass, and how long the fused step's arithmetic would take if the processor did
nothing else: no kernel that does it can be faster.
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
from atheria_lab import _native, native
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


def multiplications(law: al.laws.MLP | al.laws.Conv | al.laws.Brickwork) -> int:
    """Multiply-adds of the fused step in a cell, there and back."""
    if isinstance(law, al.laws.Brickwork):
        # Per block of four cells; a complex matrix is three real ones. Two forward, five back.
        return 7 * 3 * (4 * law.d_state) ** 2 // 4
    matrix = 2 * law.d_state * law.outer.weight.shape[1]
    # A 3x3 convolution is four matrices in a cell, by Winograd's transforms.
    inner = 4 if isinstance(law, al.laws.Conv) else 1
    return matrix * ((inner + 1) + (3 * inner + 2))


def bench(name: str, law: torch.nn.Module, size: int = 256) -> dict[str, object]:
    torch.manual_seed(0)
    eager, fused = al.Step(law), FusedStep(law)
    compiled = torch.compile(eager.__call__, dynamic=False)
    psi = al.lattice.random(size, law.d_state).requires_grad_()
    gradient = torch.randn_like(psi)
    peers: dict[str, Function] = {"eager": eager, "compile": compiled, "fused": fused}
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(ROUNDS + 3):
        for peer, step in peers.items():
            law.zero_grad()
            psi.grad = None
            start = time.perf_counter()
            step(psi, 0).backward(gradient)
            if turn >= 3:
                times[peer].append(time.perf_counter() - start)
    ms = {peer: 1e3 * statistics.median(took) for peer, took in times.items()}
    saved = {peer: saved_bytes(peers[peer], psi) for peer in ("eager", "fused")}
    peak = _native.peak(False, 20_000_000) * torch.get_num_threads()
    least = 1e3 * 2 * multiplications(law) * size**2 / peak
    return {"law": name, "size": size, "ms": ms, "saved_bytes": saved, "least_ms": least}


def main() -> None:
    rows = [
        bench("MLP d8 h32", al.laws.MLP(8, 32)),
        bench("MLP d16 h64", al.laws.MLP(16, 64)),
        bench("Conv d8 h32", al.laws.Conv(8, 32)),
        bench("Brickwork d8", al.laws.Brickwork(8)),
    ]
    lines = [
        f"One step there and back, 256x256, complex64, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; medians of {ROUNDS} interleaved rounds, in "
        f"milliseconds, kernels of {native.isa()}. Arithmetic: how long the fused step's own would "
        "take at the processor's peak.",
        "",
        "| law | eager | `torch.compile` | fused | to eager | to compile | arithmetic "
        "| saved, eager | fused |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ms, saved = row["ms"], row["saved_bytes"]
        lines.append(
            f"| {row['law']} | {ms['eager']:.1f} | {ms['compile']:.1f} | {ms['fused']:.1f} | "
            f"{ms['eager'] / ms['fused']:.1f}x | {ms['compile'] / ms['fused']:.1f}x | "
            f"{row['least_ms']:.1f} | "
            f"{saved['eager'] / 2**20:.1f} MiB | {saved['fused'] / 2**20:.1f} MiB |"
        )
    (HERE / "fused.md").write_text("\n".join(lines) + "\n")
    (HERE / "fused.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
