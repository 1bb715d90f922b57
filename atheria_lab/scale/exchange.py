"""What ranks in a ring tell each other in a step: edge rows, and sums over rows; differentiable.

Everything goes through torch.distributed (gloo on the CPU, NCCL on CUDA), as real numbers. What
a rank adds up from others it adds in the order of the ranks, so every rank has the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from atheria_lab.scale import ranks
from atheria_lab.scale.ranks import Group

_UP, _DOWN = 0, 1


class Ring:
    """Ranks in a ring: rank r lies above rank r + 1, and the last above the first.

    Args:
        group: the ranks; the default group if ``None``, or this process alone if there is none.

    Attributes:
        rank: this one.
        size: how many.
        sent_bytes: what this rank handed over for others, edges and sums, so far.
        messages: in how many calls.
    """

    def __init__(self, group: Group = None) -> None:
        self.group = group
        self.rank = ranks.rank(group)
        self.size = ranks.count(group)
        self.sent_bytes = 0
        self.messages = 0

    def edges(self, psi: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """The rows just above and just below one's own, of the neighbours; differentiable.

        Args:
            psi: one's own rows, complex ``[B, h, W, d_state]``, h at least ``rows``.
            rows: how many of each neighbour.

        Returns:
            Two tensors ``[B, rows, W, d_state]``: above, below.
        """
        found: tuple[Tensor, Tensor] = _Edges.apply(psi, rows, self)
        return found

    def mean(self, sums: Tensor, counts: Sequence[int], cells: int) -> Tensor:
        """The sum over all ranks' rows by the number of cells; differentiable.

        The sums of all rows come together in the order of the rows and are added as one tensor:
        the same bits for any number of ranks.

        Args:
            sums: over each of one's own rows, real ``[B, h]``.
            counts: rows of each rank.
            cells: to divide by.

        Returns:
            Real ``[B]``.
        """
        mean: Tensor = _Mean.apply(sums, tuple(counts), cells, self)
        return mean

    def swap(self, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """Hand one tensor to the rank above, one to the rank below; what they hand over."""
        if self.size == 1:
            return down.clone(), up.clone()
        up, down = _real(up), _real(down)
        from_above, from_below = torch.empty_like(up), torch.empty_like(down)
        above, below = self._peer(-1), self._peer(1)
        # Between two ranks four messages travel: a tag tells them apart (gloo), or their order
        # (NCCL): the first that a rank sends goes up, so the first it gets comes from below.
        calls = [
            dist.P2POp(dist.isend, up, above, self.group, _UP),
            dist.P2POp(dist.irecv, from_below, below, self.group, _UP),
            dist.P2POp(dist.isend, down, below, self.group, _DOWN),
            dist.P2POp(dist.irecv, from_above, above, self.group, _DOWN),
        ]
        with ranks.talking(self.group):
            for work in dist.batch_isend_irecv(calls):
                work.wait()
        self.sent_bytes += up.nbytes + down.nbytes
        self.messages += 2
        return torch.view_as_complex(from_above), torch.view_as_complex(from_below)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, in the order of the ranks; all of one shape."""
        if self.size == 1:
            return [tensor]
        tensor = tensor.contiguous()
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with ranks.talking(self.group):
            dist.all_gather(found, tensor, self.group)
        self.sent_bytes += (self.size - 1) * tensor.nbytes
        self.messages += self.size - 1
        return found

    def _peer(self, offset: int) -> int:
        neighbour = (self.rank + offset) % self.size
        return neighbour if self.group is None else dist.get_global_rank(self.group, neighbour)


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, psi: Tensor, rows: int, ring: Ring) -> tuple[Tensor, Tensor]:
        ctx.ring, ctx.rows, ctx.shape = ring, rows, psi.shape
        return ring.swap(psi[:, :rows], psi[:, -rows:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_above: Tensor, of_below: Tensor) -> tuple[Tensor, None, None]:
        # What was got goes back: the rank above has a gradient of the rows it got from here.
        first, last = ctx.ring.swap(of_above, of_below)
        gradient = first.new_zeros(ctx.shape)
        gradient[:, : ctx.rows] += first
        gradient[:, -ctx.rows :] += last
        return gradient, None, None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, counts: tuple[int, ...], cells: int, ring: Ring) -> Tensor:
        ctx.ring, ctx.cells, ctx.shape = ring, cells, sums.shape
        own = sums.new_zeros(sums.shape[0], max(counts))  # all send as many
        own[:, : sums.shape[1]] = sums
        everybody = zip(ring.gather(own), counts, strict=True)
        return torch.cat([theirs[:, :rows] for theirs, rows in everybody], dim=1).sum(1) / cells

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        total = torch.stack(ctx.ring.gather(gradient)).sum(0) / ctx.cells
        return total[:, None].expand(ctx.shape), None, None, None


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()).contiguous()
