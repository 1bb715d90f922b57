"""Data parallel: a batch split over ranks, and the gradient of the whole batch on each.

Every rank rolls out its own lattices, in its own memory budget, and meets the others once an
episode: a loss that is a mean over the batch is the mean of the ranks' losses, weighted by how
many lattices each has, and so is its gradient. All ranks then take the same step of the
optimizer from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from atheria_lab._checks import integer
from atheria_lab.scale import ranks

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Share:
    """The lattices of a batch that this rank has.

    Attributes:
        batch: lattices on all ranks together.
        first: index of its first.
        lattices: how many are its own.
        ranks: how many there are.
    """

    batch: int
    first: int
    lattices: int
    ranks: int

    @property
    def alone(self) -> bool:
        """Whether there is one rank only, with all."""
        return self.ranks == 1

    @property
    def weight(self) -> float:
        """Its part of a mean over the batch."""
        return self.lattices / self.batch

    def of(self, psi: Tensor) -> Tensor:
        """Its lattices of a whole batch ``[batch, H, W, d_state]``, a copy."""
        if self.alone:
            return psi
        if psi.shape[0] != self.batch:
            raise ValueError(
                f"initial: it returned {psi.shape[0]} lattices for batch={self.batch}; on several "
                "ranks it returns the whole batch, and each rank takes its own part."
            )
        return psi[self.first : self.first + self.lattices].clone()


def share(batch: int) -> Share:
    """What this rank has of a batch; the first ranks have what is left over.

    Raises:
        ValueError: fewer lattices than ranks.
    """
    integer("batch", batch)
    count, rank = ranks.count(), ranks.rank()
    if batch < count:
        raise ValueError(
            f"batch: got {batch} for {count} ranks; each takes at least one lattice. Take "
            f"batch={count} (--batch {count}) or more, or fewer ranks."
        )
    even, left = divmod(batch, count)
    return Share(batch, rank * even + min(rank, left), even + (rank < left), count)


def check_device(device: torch.device) -> None:
    """Refuse a device that the process group cannot talk from."""
    if ranks.in_group() and dist.get_backend() == "nccl" and device.type != "cuda":
        raise ValueError(
            f"device: got {device} in a group that talks over NCCL, which takes CUDA devices. "
            'Take device="cuda", or init_process_group("gloo").'
        )


def same_weights(law: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, as DDP does.

    Raises:
        ValueError: their names, shapes or dtypes differ.
    """
    if ranks.count() == 1:
        return
    held = {**dict(law.named_parameters()), **dict(law.named_buffers())}
    ranks.check_same({f"law's {name}": (t.dtype, tuple(t.shape)) for name, t in held.items()})
    with ranks.talking(None):
        for tensor in held.values():
            dist.broadcast(tensor.detach(), 0)


def averaged(
    work: Callable[[], tuple[float, Numbers]], parameters: Iterable[Tensor], own: Share
) -> tuple[float, dict[str, float]]:
    """Loss, metrics and gradients of the whole batch; the gradients are left in the parameters.

    Args:
        work: makes this rank's gradients, and returns its loss and metrics.
        parameters: whose gradients these are, in the same order on every rank.
        own: this rank's share.

    Raises:
        RuntimeError: ``work`` failed on another rank; where it failed, its own error.
        RankLostError: a rank is gone.
    """
    if own.alone:
        loss, metrics = work()
        return loss, dict(metrics)
    held = list(parameters)

    def answer() -> tuple[float, float, dict[str, float], list[bool]]:
        loss, metrics = work()
        return own.weight, loss, dict(metrics), [p.grad is not None for p in held]

    answers = ranks.together(answer)
    felt = [any(rank[3][place] for rank in answers) for place in range(len(held))]
    sum_gradients([p for p, some in zip(held, felt, strict=True) if some], own.weight)
    names = answers[0][2]
    mean = {name: sum(w * metrics[name] for w, _, metrics, _ in answers) for name in names}
    return sum(weight * loss for weight, loss, _, _ in answers), mean


def sum_gradients(parameters: Iterable[Tensor], weight: float = 1.0) -> None:
    """Each gradient becomes the sum over all ranks, times ``weight`` on each; one message a dtype.

    Args:
        parameters: in the same order on every rank; one without a gradient here counts as 0.
        weight: of this rank's.
    """
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault(parameter.dtype, []).append(parameter)
    for held in kinds.values():
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
        flat = torch.cat([_real(grad).reshape(-1) for grad in grads]).mul_(weight)
        with ranks.talking(None):
            dist.all_reduce(flat)
        for parameter, grad in zip(held, grads, strict=True):
            part, flat = flat[: _real(grad).numel()], flat[_real(grad).numel() :]
            parameter.grad = grad
            _real(grad).copy_(part.view_as(_real(grad)))


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
