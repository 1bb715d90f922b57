"""A lattice larger than a device: its rows lie on several ranks, which swap their edges.

Each rank owns some whole rows. A step of a law with radius r needs r rows of each neighbour,
the *halo*: they are fetched, the law runs on the widened rows, and what it says of the outermost
ones (where it saw the wrong neighbours) is cut off. The columns stay whole, so that the boundary
stays periodic on its own. Going back, the gradients of a halo return to the rank that owns the
rows, and are added there.

With ``exchange_every=k`` the halo is k radii wide and is fetched before every k-th step only;
the steps in between also compute what they still need beyond the own rows. As many bytes travel
in fewer messages, for some rows computed twice.

**The same bits for any number of ranks.** A kernel's rounding depends on the shape it is given
(the ends of a vector loop, the blocking of a product of matrices). So the rows are computed in
blocks, counted from the lattice's first row, and a block is computed from the same window in the
same shape wherever it lies; ranks own whole blocks. The norm "lattice" adds the sums over rows in
the order of the rows, on every rank; noise is counted by the cell's place in the whole lattice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from atheria_lab._checks import instance, integer
from atheria_lab.lattice import check_psi, rescale, row_sums
from atheria_lab.laws.base import Law, UnitaryLaw, fingerprint
from atheria_lab.noise import Noise, Part
from atheria_lab.scale import ranks
from atheria_lab.scale.exchange import Ring
from atheria_lab.scale.ranks import Group
from atheria_lab.scale.rows import Rows, usual_block
from atheria_lab.step import LatticeState, Step

T = TypeVar("T")


class SplitState(NamedTuple):
    """Own rows, and what is still valid of the neighbours' since the last exchange.

    Attributes:
        psi: own rows, complex ``[B, h, W, d_state]``.
        above: rows above them, ``[B, (k - 1) * block, W, d_state]``; zeros where not valid.
        below: rows below them, likewise.
    """

    psi: Tensor
    above: Tensor
    below: Tensor


class SplitStep:
    """A step whose lattice is split by rows over the ranks of a process group.

    It is a step function like the one that it is made from: ``al.rollout(split, split.initial(
    split.take(psi)), steps, ...)`` on every rank, with any plan or budget. All ranks make the same
    steps in the same order, forward and back, so they take the same plan (with a budget, rank
    0's choice) and each calls ``backward()`` on its own part of the loss; the whole loss is the
    sum of the parts. Then :meth:`sum_gradients` adds what each rank found for the parameters.

    Without a process group it is one process with the whole lattice: what the ranks' results
    equal, bit for bit, with as many threads. An :class:`~atheria_lab.Step` of the whole gives
    these bits too where its kernels round alike, else it differs by rounding.

    Args:
        step: of the whole lattice; its law is a :class:`~atheria_lab.laws.Law` with a finite
            radius and no hidden tensors.
        height: rows of the whole lattice.
        exchange_every: steps between two exchanges, k. A state is then a :class:`SplitState`,
            and its first step has an index that is a multiple of k.
        block: rows that are computed at a time, a multiple of the law's ``unit``. By default,
            for k = 1, a sixteenth of the height, at most 32; for k > 1, the radius.
        group: the ranks; the default group if ``None``. All must make their SplitStep at once.

    Attributes:
        rows: the split: ``rows.of(rank)``, ``rows.counts``.
        own: the rows of this rank, a slice of the whole.
        radius: rows of the halo that one step uses up: the law's radius in whole units.
        halo: rows that an exchange fetches from each neighbour.
        ring: what was sent: ``ring.sent_bytes``, ``ring.messages``.

    Raises:
        TypeError: step is no Step.
        ValueError: a law without a finite radius or with hidden tensors, sizes that do not fit,
            or ranks that differ in code, law, settings or sizes.
        RankLostError: (of any method) another rank is gone.
    """

    def __init__(
        self,
        step: Step,
        height: int,
        *,
        exchange_every: int = 1,
        block: int | None = None,
        group: Group = None,
    ) -> None:
        instance("step", step, Step, "a Step, such as al.Step(law)")
        self.step = step
        self.ring = Ring(group)
        self.exchange_every = integer("exchange_every", exchange_every)
        integer("height", height)
        law = step.law
        # All ranks are told of a refusal, whoever it is that must be refused.
        ranks.together(lambda: _check_law(law), group)
        unit = int(getattr(law, "unit", 1))
        self.radius = -(-cast(Law, law).radius // unit) * unit
        if block is None:
            block = max(unit, self.radius)
            block = usual_block(height, unit) if self.exchange_every == 1 else block
        ranks.check_same(
            {
                "code": ranks.code_fingerprint(),
                "law": fingerprint(law),
                "step": type(step).__name__,
                "gamma": step.gamma,
                "norm": step.norm,
                "noise": step.noise,
                "seed": step.seed,
                "height": height,
                "exchange_every": exchange_every,
                "block": block,
            },
            group,
        )
        self.rows = Rows(height, block, self.ring.size)
        self._ahead = (self.exchange_every - 1) * block if self.radius else 0
        self.halo = self.radius + self._ahead
        self._check_sizes(unit)
        self.own = self.rows.of(self.ring.rank)
        # The law and what belongs to a cell; the norm of a lattice and the noise come after.
        self._bare = copy.copy(step)
        self._bare.norm = "none" if step.norm == "lattice" else step.norm
        self._bare.noise = Noise()

    def take(self, psi: Tensor) -> Tensor:
        """A copy of this rank's rows of a whole psi ``[B, height, W, d_state]``."""
        check_psi(psi)
        if psi.shape[1] != self.rows.height:
            raise ValueError(
                f"psi: got {psi.shape[1]} rows; the lattice has {self.rows.height}. A psi that is "
                "this rank's rows already needs no take()."
            )
        return psi[:, self.own].clone()

    def initial(self, psi: Tensor) -> Any:
        """The state that a rollout starts from: own rows, with room for a halo where k > 1."""
        check_psi(psi, d_state=getattr(self.step.law, "d_state", None))
        self._check_rows(psi)
        if not self._ahead:
            return psi
        empty = psi.new_zeros(psi.shape[0], self._ahead, *psi.shape[2:])
        return SplitState(psi, empty, empty.clone())

    def whole(self, state: Any) -> Tensor:
        """The whole psi, on every rank, without a graph: for a lattice that fits on one."""
        psi = _psi_of(state).detach()
        counts = self.rows.counts
        own = psi.new_zeros(psi.shape[0], max(counts), *psi.shape[2:])
        own[:, : psi.shape[1]] = psi
        real = torch.view_as_real(own)
        everybody = zip(Ring(self.ring.group).gather(real), counts, strict=True)
        return torch.view_as_complex(torch.cat([theirs[:, :n] for theirs, n in everybody], dim=1))

    def sum_gradients(self) -> None:
        """Add up, on every rank, what each found for the law's parameters, in rank order."""
        for parameter in self.step.law.parameters():
            if parameter.grad is not None:
                parts = Ring(self.ring.group).gather(parameter.grad)
                parameter.grad = torch.stack(parts).sum(0)

    def together(self, work: Callable[[], T]) -> list[T]:
        """Every rank's result; see :func:`atheria_lab.scale.ranks.together`."""
        return ranks.together(work, self.ring.group)

    def check_same(self, **facts: object) -> None:
        """Refuse what differs between ranks; see :func:`atheria_lab.scale.ranks.check_same`."""
        ranks.check_same(facts, self.ring.group)

    def __call__(self, state: Any, i: int) -> Any:
        """The state after step ``i``; own rows where k is 1 or the radius 0."""
        psi = self._checked(state, i)
        phase = i % self.exchange_every
        ahead = max(0, self._ahead - phase * self.rows.block)
        parts = self._update(*self._widened(state, psi, ahead), ahead, self._bare, i)
        if self.step.norm == "lattice":
            rho = self._mean_density(parts, ahead)
            parts = [(first, rescale(part, rho)) for first, part in parts]
        if self.step.noise:
            parts = [(first, self._noise(part, first, i)) for first, part in parts]
        after = [part for _, part in parts]
        margin = ahead // self.rows.block
        own = torch.cat(after[margin : len(after) - margin], dim=1)
        if not self._ahead:
            return LatticeState(own) if isinstance(state, LatticeState) else own
        empty = psi.new_zeros(psi.shape[0], self._ahead - ahead, *psi.shape[2:])
        above = torch.cat([empty, *after[:margin]], dim=1)
        below = torch.cat([*after[len(after) - margin :], empty], dim=1)
        return SplitState(own, above, below)

    @property
    def inverse(self) -> Any:
        """``inverse(state, i)``, the state before step ``i``: unitary laws, k = 1.

        Raises:
            AttributeError: there is none.
        """
        if not self.step.unitary or self._ahead:
            raise AttributeError(
                f"{type(self.step.law).__name__} has no inverse here: it takes a unitary law and "
                "exchange_every=1."
            )
        return self._inverse

    def _inverse(self, state: Any, i: int) -> Any:
        psi = self._checked(state, i)
        if self.step.noise:
            kinds = self._cut(psi, 0)
            psi = torch.cat([self._noise(part, first, i, back=True) for first, part in kinds], 1)
        law = cast(UnitaryLaw, self.step.law)
        parts = self._update(*self._widened(state, psi, 0), 0, lambda x, _: law.inverse(x), i)
        before = torch.cat([part for _, part in parts], dim=1)
        return LatticeState(before) if isinstance(state, LatticeState) else before

    def _widened(self, state: Any, psi: Tensor, ahead: int) -> tuple[Tensor, int]:
        """Own rows with the halo that a step needs, and how many rows that is to each side."""
        reach = self.radius + ahead if self.radius else 0
        if not reach:
            return psi, 0
        if ahead == self._ahead:
            above, below = self.ring.edges(psi, reach)
        else:
            above, below = state.above[:, -reach:], state.below[:, :reach]
        return torch.cat([above, psi, below], dim=1), reach

    def _update(
        self,
        wide: Tensor,
        reach: int,
        ahead: int,
        move: Callable[[Tensor, int], Tensor],
        i: int,
    ) -> list[tuple[int, Tensor]]:
        """Each block's first row in the whole lattice, and the block moved, from its window."""
        height, block, radius = self.rows.height, self.rows.block, self.radius
        start, stop = self.own.start - ahead, self.own.stop + ahead
        origin = self.own.start - reach
        moved = []
        for first in range(start, stop, block):
            last = min(first + block, stop)
            window = wide[:, first - radius - origin : last + radius - origin]
            moved.append((first % height, move(window, i)[:, radius : radius + last - first]))
        return moved

    def _cut(self, psi: Tensor, ahead: int) -> list[tuple[int, Tensor]]:
        """Own rows in blocks, without windows."""
        block, start = self.rows.block, self.own.start
        return [
            (first, psi[:, first - start : first - start + block])
            for first in range(start, self.own.stop, block)
        ]

    def _mean_density(self, parts: list[tuple[int, Tensor]], ahead: int) -> Tensor:
        """Over the whole lattice, real ``[B, 1, 1]``."""
        margin = ahead // self.rows.block
        own = [row_sums(part) for _, part in parts[margin : len(parts) - margin]]
        cells = self.rows.height * parts[0][1].shape[2]
        return self.ring.mean(torch.cat(own, dim=1), self.rows.counts, cells)[:, None, None]

    def _noise(self, psi: Tensor, first: int, i: int, *, back: bool = False) -> Tensor:
        part = Part(row=first, height=self.rows.height)
        noise, seed = self.step.noise, self.step.seed
        if back:
            return noise.invert(psi, seed=seed, step=i, part=part)
        return noise.apply(psi, seed=seed, step=i, part=part)

    def _checked(self, state: Any, i: int) -> Tensor:
        """Psi of a state of the right kind; at step 0 the ranks compare their shapes."""
        if i == 0:
            ranks.together(lambda: self._check_rows(_psi_of(state)), self.ring.group)
            psi = _psi_of(state)
            batch, _, width, d_state = psi.shape
            self.check_same(
                batch=batch, width=width, d_state=d_state, dtype=psi.dtype,
                gradients=torch.is_grad_enabled(),
            )  # fmt: skip
        if self._ahead and not isinstance(state, SplitState):
            raise TypeError(
                f"state: got {type(state).__name__}; with exchange_every={self.exchange_every} it "
                "takes a SplitState. Start from split.initial(psi)."
            )
        own: Tensor = _psi_of(state)
        return own

    def _check_rows(self, psi: Tensor) -> None:
        rows = self.own.stop - self.own.start
        if not isinstance(psi, Tensor) or psi.dim() != 4 or psi.shape[1] != rows:
            got = tuple(psi.shape) if isinstance(psi, Tensor) else type(psi).__name__
            raise ValueError(
                f"psi: got {got} on rank {self.ring.rank}, which owns the rows {self.own.start} to "
                f"{self.own.stop - 1} of {self.rows.height}: it takes [B, {rows}, W, d_state]. "
                "split.take(psi) cuts them out of a whole psi."
            )

    def _check_sizes(self, unit: int) -> None:
        height, block = self.rows.height, self.rows.block
        if height % unit or block % unit:
            raise ValueError(
                f"height: got {height} rows in blocks of {block}; "
                f"{type(self.step.law).__name__} takes multiples of {unit}."
            )
        if self._ahead and (height % block or block < self.radius):
            raise ValueError(
                f"block: got {block} rows for a height of {height}; with exchange_every="
                f"{self.exchange_every} the height is a multiple of it, and it is at least the "
                f"radius, {self.radius}."
            )
        least = min(self.rows.counts)
        if least < self.halo:
            raise ValueError(
                f"height: got {height} rows for {self.ring.size} ranks, so that one owns {least}; "
                f"the halo is {self.halo} rows, and each rank owns at least as many. Take fewer "
                "ranks, a larger lattice or a smaller exchange_every."
            )


def _psi_of(state: Any) -> Any:
    return state.psi if isinstance(state, LatticeState | SplitState) else state


def _check_law(law: Any) -> None:
    name = type(law).__name__
    if getattr(law, "recurrent", False):
        raise ValueError(
            f"law: {name} carries hidden tensors on lattices of their own, which are not split; "
            "it takes a law without."
        )
    try:
        radius = getattr(law, "radius", None)
    except NotImplementedError:  # a Law that does not say
        radius = None
    if not isinstance(radius, int) or isinstance(radius, bool) or radius < 0:
        raise ValueError(
            f"law: {name} has no finite radius (got {radius!r}), so a row may depend on all "
            "others and the lattice cannot be split. It takes a law that says how far a cell's "
            "influence reaches in a step: an attribute radius, in cells."
        )
