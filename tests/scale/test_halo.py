"""A lattice split over ranks, in real processes on loopback: the same bits for any number."""

import functools
import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from small import COMPLEX, small_law
from spawned import on_ranks

import atheria_lab as al
from atheria_lab.fused import FusedStep
from atheria_lab.scale.halo import SplitStep
from atheria_lab.scale.rows import Rows

COUNTS = [1, 2, 3, 4]
EXAMPLES = 10
STEPS = 4


@st.composite
def lattices(draw, ranks):
    """A law, how it is split, and a lattice large enough for it."""
    name = draw(st.sampled_from(["MLP", "Conv", "UNet", "Brickwork"]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    law = small_law(name, dtype)
    every = draw(st.integers(1, 2 if name == "UNet" else 3))
    unit = law.unit
    radius = -(-law.radius // unit) * unit
    block = unit if every == 1 else max(unit, radius)
    least = ranks * max(1, every * radius // block)
    height = block * draw(st.integers(least, least + 5))
    width = unit * draw(st.integers(1, 9))
    norms = ["none"] if name == "Brickwork" else ["lattice", "cell", "none"]
    return {
        "law": name,
        "dtype": dtype,
        "every": every,
        "shape": (draw(st.integers(1, 2)), height, width, 2),
        "norm": draw(st.sampled_from(norms)),
        "noise": al.Noise(draw(st.sampled_from([0.0, 0.2])), draw(st.sampled_from([0.0, 0.1]))),
        "plan": draw(st.sampled_from([al.plans.StoreAll(), al.plans.Binomial(2)])),
    }


@functools.cache
def cases(ranks):
    """The same examples on every rank, and in the process that compares them."""
    drawn = []

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(lattices(ranks))
    def draw(case):
        drawn.append(case)

    draw()
    return drawn


def step_of(case):
    law = small_law(case["law"], case["dtype"])
    return al.Step(law, norm=case["norm"], noise=case["noise"], seed=5)


def start_of(case):
    batch, height, width, d_state = case["shape"]
    dtype = COMPLEX[case["dtype"]]
    return al.lattice.random((height, width), d_state, seed=1, batch=batch, dtype=dtype)


def loss_of(psi, weights):
    return (weights * torch.view_as_real(psi).square().sum((-1, -2)).sqrt()).sum()


def weights_of(psi):
    shape = psi.shape[:3]
    return torch.linspace(-1, 2, shape.numel(), dtype=psi.real.dtype).reshape(shape)


def one_case(case):
    """The final psi, and the loss's gradients of psi and of the parameters: all of the whole."""
    step, psi = step_of(case), start_of(case)
    split = SplitStep(step, psi.shape[1], exchange_every=case["every"])
    own = split.take(psi).requires_grad_()
    out = al.rollout(split, split.initial(own), STEPS, plan=case["plan"])
    final = out.final if isinstance(out.final, torch.Tensor) else out.final.psi
    loss_of(final, weights_of(psi)[:, split.own]).backward()
    split.sum_gradients()
    gradients = [split.whole(own.grad), *(p.grad for p in step.law.parameters())]
    return split.whole(out.final).numpy(), [gradient.numpy() for gradient in gradients]


def told(work):
    """What it raises, in words."""
    try:
        work()
    except (ValueError, TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def counted(split, psi):
    """Bytes that torch.distributed is handed in one step, there and back: edges and sums."""
    handed = {"edges": 0, "sums": 0}
    swap, gather = dist.batch_isend_irecv, dist.all_gather

    def counting_swap(calls):
        handed["edges"] += sum(call.tensor.nbytes for call in calls if call.op is dist.isend)
        return swap(calls)

    def counting_gather(found, tensor, group=None):
        handed["sums"] += (len(found) - 1) * tensor.nbytes
        return gather(found, tensor, group)

    dist.batch_isend_irecv, dist.all_gather = counting_swap, counting_gather
    try:
        state = split.initial(split.take(psi).requires_grad_())
        before = split.ring.sent_bytes
        for i in range(split.exchange_every, 2 * split.exchange_every):  # not 0: it checks shapes
            state = split(state, i)
        forward = dict(handed)
        final = state if isinstance(state, torch.Tensor) else state.psi
        final.abs().sum().backward()
    finally:
        dist.batch_isend_irecv, dist.all_gather = swap, gather
    return forward, handed, split.ring.sent_bytes - before


def traffic():
    found = []
    for every in (1, 2, 3):
        split = SplitStep(al.Step(small_law("Conv")), 24, exchange_every=every)
        found.append(counted(split, al.lattice.random((24, 5), 2, batch=2)))
    return found


class Unbounded(torch.nn.Module):
    """A mean over the whole lattice: no finite radius."""

    d_state, radius = 2, float("inf")

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        return x - self.gain * x.mean((2, 3), keepdim=True)


def refusals():
    """What each rank is told about what cannot be, or differs between them."""
    rank = dist.get_rank()
    ranks = dist.get_world_size()
    conv = small_law("Conv")
    split = SplitStep(al.Step(conv), 24)
    psi = al.lattice.random(24, 2)
    own = split.take(psi)
    last = rank == ranks - 1
    plan = al.plans.Binomial(2 if last else 3)
    other = split.initial(own[:, :, : 22 if last else 24])
    return {
        "recurrent": told(lambda: SplitStep(al.Step(small_law("ConvLSTMUNet")), 24)),
        "unbounded": told(lambda: SplitStep(al.Step(Unbounded()), 24)),
        "small": told(lambda: SplitStep(al.Step(small_law("UNet")), 8)),
        "few": told(lambda: SplitStep(al.Step(small_law("MLP")), 1)),
        "gamma": told(lambda: SplitStep(al.Step(conv, gamma=0.5 if last else 0.1), 24)),
        "weights": told(lambda: SplitStep(al.Step(small_law("Conv", seed=int(last))), 24)),
        "width": told(lambda: split(other, 0)),
        "rows": told(lambda: split(own[:, 1:] if last else own, 0)),
        "whole": told(lambda: split.initial(psi)),
        "plan": told(lambda: al.rollout(split, own, 3, plan=plan)),
        "steps": told(lambda: al.rollout(split, own, 4 if last else 3)),
        "budget": told(lambda: al.rollout(split, own, 30, budget="1 KiB")),
    }


def within_a_budget():
    """All ranks take the plan of rank 0, and the gradients are those of plain autograd."""
    law = small_law("Conv", torch.float64)
    psi = al.lattice.random(24, 2, dtype=torch.complex128)
    split = SplitStep(al.Step(law), 24)
    found = []
    for options in ({}, {"budget": "300 KiB"}):
        law.zero_grad()
        out = al.rollout(split, split.take(psi), 40, **options)
        out.final.abs().sum().backward()
        split.sum_gradients()
        found.append([p.grad.numpy() for p in law.parameters()])
    return repr(out.plan), found


def reversible():
    law = small_law("Brickwork", torch.float64)
    psi = al.lattice.random(16, 2, dtype=torch.complex128)
    split = SplitStep(al.Step(law, noise=al.Noise(phase=0.3)), 16)
    found = []
    for plan in (al.plans.StoreAll(), al.plans.Reversible()):
        law.zero_grad()
        final = al.rollout(split, split.take(psi), 6, plan=plan).final
        loss_of(final, weights_of(psi)[:, split.own]).backward()
        found.append(law.generators.grad.numpy())
    return found


def everything(ranks):
    found = {"cases": [one_case(case) for case in cases(ranks)]}
    if ranks == 2:
        found |= {"traffic": traffic(), "budget": within_a_budget(), "reversible": reversible()}
    if ranks == 3:
        found |= {"refusals": refusals()}
    return found


@functools.cache
def results(ranks):
    return on_ranks(ranks, everything, ranks)


def found_on(ranks):
    found = results(ranks)
    assert all(isinstance(one, dict) for one in found), found
    return found


@pytest.mark.parametrize("ranks", COUNTS)
def test_a_split_lattice_has_the_bits_and_gradients_of_one_process(ranks):
    for rank, found in enumerate(found_on(ranks)):
        for case, (final, gradients) in zip(cases(ranks), found["cases"], strict=True):
            alone, alone_gradients = one_case(case)
            assert np.array_equal(final, alone), (rank, case)
            if case["dtype"] == torch.float32:
                continue
            for got, wanted in zip(gradients, alone_gradients, strict=True):
                assert np.abs(got - wanted).max() <= 1e-10 * np.abs(wanted).max() + 1e-14, case


@pytest.mark.parametrize("ranks", COUNTS)
def test_one_process_is_the_step_of_the_whole_lattice(ranks):
    """Within rounding, forward and back: PyTorch's kernels round by the shape they are given."""
    for case in cases(ranks):
        if case["dtype"] == torch.float64:
            step, psi = step_of(case), start_of(case).requires_grad_()
            final = al.rollout(step, psi, STEPS).final
            loss_of(final, weights_of(psi)).backward()
            whole = [final.detach(), psi.grad, *(p.grad for p in step.law.parameters())]
            found = [one_case(case)[0], *one_case(case)[1]]
            for got, wanted in zip(found, map(torch.Tensor.numpy, whole), strict=True):
                assert np.abs(got - wanted).max() <= 1e-10 * np.abs(wanted).max() + 1e-14, case


@pytest.mark.parametrize("size", [16, 64])
def test_and_its_very_bits_where_the_kernels_round_alike(size):
    """Cell by cell in rows of whole vectors, in float32; a convolution's bits vary by shape."""
    for law in (al.laws.MLP(8), al.laws.Brickwork(8)):
        psi = al.lattice.random(size, 8)
        split = SplitStep(al.Step(law), size)
        with torch.no_grad():
            final = al.rollout(split, psi, 5).final
            assert torch.equal(final, al.rollout(al.Step(law), psi, 5).final), law


def test_bytes_are_those_of_the_formula():
    """2 r B W d_state 8 bytes a step for the edges, and for the norm (N - 1) B h 4 bytes."""
    batch, width, d_state, rows, radius, ranks = 2, 5, 2, 12, 1, 2
    edges = 2 * radius * batch * width * d_state * 8
    sums = (ranks - 1) * batch * rows * 4
    back = (ranks - 1) * batch * 4
    for found in found_on(2):
        for every, (forward, both, sent) in zip((1, 2, 3), found["traffic"], strict=True):
            assert forward == {"edges": every * edges, "sums": every * sums}
            assert both == {"edges": 2 * every * edges, "sums": every * (sums + back)}
            assert sent == both["edges"] + both["sums"]


def test_a_budget_gives_all_ranks_one_plan():
    plans = {found["budget"][0] for found in found_on(2)}
    assert len(plans) == 1
    assert plans != {"StoreAll()"}
    for found in found_on(2):
        for plain, planned in zip(*found["budget"][1], strict=True):
            assert np.abs(plain - planned).max() < 1e-12 * np.abs(plain).max()


def test_a_unitary_law_goes_back_without_checkpoints():
    for found in found_on(2):
        plain, reversed_ = found["reversible"]
        assert np.abs(plain - reversed_).max() < 1e-11 * np.abs(plain).max()


REFUSED = [
    ("recurrent", ["law: ConvLSTMUNet carries hidden tensors"]),
    ("unbounded", ["law: Unbounded has no finite radius (got inf)"]),
    ("small", ["one owns 2", "the halo is 6 rows"]),
    ("few", ["height: got 1 rows", "for 3 ranks"]),
    ("gamma", ["gamma: rank 2 of 3 has 0.5, rank 0 has 0.1"]),
    ("weights", ["law: rank 2 of 3 has"]),
    ("width", ["width: rank 2 of 3 has 22, rank 0 has 24"]),
    ("rows", ["psi: got (1, 7, 24, 2) on rank 2"]),
    ("whole", ["psi: got (1, 24, 24, 2) on rank", "split.take(psi)"]),
    ("plan", ["plan: rank 2 of 3 has Binomial(slots=2), rank 0 has Binomial(slots=3)"]),
    ("steps", ["steps: rank 2 of 3 has 4, rank 0 has 3"]),
    ("budget", ["no exact plan makes 30 steps within it"]),
]


def test_what_cannot_be_is_told_on_every_rank():
    for found in found_on(3):
        for what, words in REFUSED:
            for word in words:
                assert word in found["refusals"][what], found["refusals"][what]


def one_rank_dies():
    """Steps until the last rank is killed; what the others are told, and how long it took."""
    split = SplitStep(al.Step(small_law("Conv")), 24)
    state = split.take(al.lattice.random(24, 2))
    start = time.monotonic()
    for i in range(10**6):
        if i == 5 and dist.get_rank() == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        words = told(lambda: split(state, i + 1))  # noqa: B023
        if words != "nothing":
            return words, time.monotonic() - start
    return None


def test_a_rank_that_is_killed_ends_the_others_with_a_word():
    found = on_ranks(3, one_rank_dies)
    assert found[2] is None
    for words, seconds in found[:2]:
        assert words.startswith("RankLostError: rank")
        assert "another rank ended" in words
        assert seconds < 40


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 7))
def test_every_row_belongs_to_one_rank(height, block, ranks):
    if -(-height // block) < ranks:
        with pytest.raises(ValueError, match="each rank takes at least one block"):
            Rows(height, block, ranks)
        return
    rows = Rows(height, block, ranks)
    owned = [row for rank in range(ranks) for row in range(height)[rows.of(rank)]]
    assert owned == list(range(height))
    assert max(rows.counts) - min(rows.counts) < 2 * block
    assert all(rows.of(rank).start % block == 0 for rank in range(ranks))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"height": 0}, "height"),
        ({"height": 7.5}, "height"),
        ({"height": 24, "exchange_every": 0}, "exchange_every"),
        ({"height": 24, "exchange_every": 2, "block": 5}, "block: got 5 rows for a height of 24"),
        ({"height": 24, "block": 0}, "block"),
    ],
)
def test_bad_sizes_are_refused_in_words(arguments, word):
    with pytest.raises((ValueError, TypeError), match=word):
        SplitStep(al.Step(small_law("Conv")), **arguments)


@pytest.mark.parametrize("norm", ["lattice", "cell", "none"])
def test_a_fused_step_can_be_split_too(norm):
    law = small_law("MLP", torch.float64)
    psi = al.lattice.random((24, 5), 2, batch=2, dtype=torch.complex128)
    found = []
    for step in (al.Step(law, norm=norm), SplitStep(FusedStep(law, norm=norm), 24)):
        law.zero_grad()
        final = al.rollout(step, psi, 4).final
        loss_of(final, weights_of(psi)).backward()
        found.append([final.detach(), *(p.grad for p in law.parameters())])
    for whole, split in zip(*found, strict=True):
        assert torch.allclose(whole, split, rtol=1e-10, atol=1e-12)


def test_a_law_that_does_not_say_its_radius_is_refused():
    class Silent(al.laws.Law):
        def forward(self, x):
            return x

    with pytest.raises(ValueError, match="Silent has no finite radius"):
        SplitStep(al.Step(Silent(2)), 24)


def test_a_step_that_is_none_is_refused():
    with pytest.raises(TypeError, match="step: got function; it takes a Step"):
        SplitStep(lambda psi, i: psi, 24)


def test_a_widened_state_must_start_from_initial():
    split = SplitStep(al.Step(small_law("Conv")), 24, exchange_every=2)
    with pytest.raises(TypeError, match="Start from split.initial"):
        split(al.lattice.random(24, 2), 0)
