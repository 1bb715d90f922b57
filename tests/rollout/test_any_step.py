"""Any step function, over any pytree: not only ours."""

import functools
from typing import NamedTuple

import pytest
import torch
from small import distance, gradients, rate, same_bits, small_law, small_start
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._pytree import tree_leaves, tree_map

import atheria_lab as al
from atheria_lab import plans

PLANS = [
    plans.Segmented(3),
    plans.Binomial(1),
    plans.Binomial(3),
    plans.Tiered(device=1, host=1, disk=1),
]
SAVE_AT = al.SaveAt.indices([0, 4, 10])
every_plan = pytest.mark.parametrize("plan", PLANS, ids=repr)


def leaf(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def parameter(*shape, dtype=torch.float32):
    return (0.3 * leaf(*shape, dtype=dtype, seed=7)).requires_grad_()


class Pair(NamedTuple):
    one: torch.Tensor
    two: torch.Tensor


W = parameter(3, 3)
Z = parameter(2, 2, dtype=torch.complex64)


def nested(state, i):
    """Dicts, tuples, lists, named tuples; real and complex; an int that is passed through."""
    (a, b), pair = state["ab"], state["pair"]
    return {
        "ab": (torch.tanh(a @ W), b @ Z + a.mean()),
        "pair": Pair(pair.one * 0.9 + b.abs().mean(), pair.two),
        "count": state["count"],
        "list": [x.sin() for x in state["list"]],
    }


NESTED = {
    "ab": (leaf(2, 3), leaf(2, 2, dtype=torch.complex64)),
    "pair": Pair(leaf(2), leaf(4, dtype=torch.float64)),
    "count": torch.arange(3),
    "list": [leaf(1), leaf(2, seed=3)],
}


def counts(state, i):
    x, n = state
    return (x @ W).tanh() * (1 + 0.1 * n), n + 1


def mixes(state, i):
    """One leaf ignores the others, one is never read, two share one tensor."""
    a, b, c, d = state
    shared = torch.tanh(a @ W)
    return b.cos(), shared, shared, d


def forgets(state, i):
    """At step 6 the past is forgotten: no gradient crosses."""
    return torch.full_like(state, 0.5) * W[0] if i == 6 else torch.tanh(state @ W)


def branches(state, i):
    """The index decides, and so do the numbers."""
    if i % 3 == 0:
        return torch.relu(state @ W)
    return state * 0.9 if bool(state.sum() > 0) else state - 0.1 * W.sum()


STEPS = {
    "nested": (nested, NESTED, [W, Z]),
    "an int that changes": (counts, (leaf(2, 3), torch.tensor(0)), [W]),
    "leaves that ignore others": (mixes, (leaf(2, 3), leaf(2, 3), leaf(2, 3), leaf(1)), [W]),
    "a step without a past": (forgets, leaf(3), [W]),
    "branches": (branches, leaf(2, 3), [W]),
    "a lambda": (lambda x, i: torch.sin(x @ W), leaf(2, 3), [W]),
    "a view of its input": (lambda x, i: x.T @ W if i % 2 else x.T.contiguous().T, leaf(3, 3), [W]),
    "lazy conjugates": (lambda z, i: (z @ Z).conj(), leaf(2, 2, dtype=torch.complex64), [Z]),
    "a slice of a larger tensor": (lambda x, i: torch.cat([x, x])[1:3] @ W, leaf(2, 3), [W]),
    "an expanded tensor": (lambda x, i: (x @ W).mean(0).expand(2, 3), leaf(2, 3), [W]),
    "the identity": (lambda x, i: x, leaf(2, 3), [W]),
    "a scalar": (lambda x, i: (x * W[0, 0]).cos(), torch.tensor(0.3), [W]),
    "an empty leaf": (
        lambda s, i: (torch.tanh(s[0] @ W), s[1] * 2, s[2]),
        (leaf(2, 3), torch.zeros(0, 3), torch.zeros(3, 0, dtype=torch.int64)),
        [W],
    ),
    "half precision": (lambda x, i: (x @ W.bfloat16()).tanh(), leaf(2, 3).bfloat16(), [W]),
    "its weight twice": (lambda x, i: torch.sin(torch.sin(x @ W) @ W), leaf(2, 3), [W]),
}
# Plain autograd adds all contributions to one tensor at once, wherever in the rollout they come
# from: to a leaf that is handed on, or to a weight that a step uses twice.
SUMMED_IN_ANOTHER_ORDER = {"nested", "the identity", "its weight twice"}


@every_plan
@pytest.mark.parametrize("name", STEPS)
def test_any_step_over_any_pytree(name, plan):
    step, start, wanted = STEPS[name]
    states, grads, out = gradients(step, start, 10, plan, SAVE_AT, wanted=wanted)
    true_states, true_grads, _ = gradients(step, start, 10, None, SAVE_AT, wanted=wanted)
    assert same_bits(states, true_states)
    assert distance(grads, true_grads) <= 1e-6
    assert same_bits(grads, true_grads) or name in SUMMED_IN_ANOTHER_ORDER
    assert type(out.final) is type(start)


@every_plan
def test_leaves_pass_through(plan):
    _, _, out = gradients(nested, NESTED, 10, plan, SAVE_AT, wanted=[W, Z])
    assert isinstance(out.final["pair"], Pair)
    assert torch.equal(out.final["count"], NESTED["count"])
    assert not out.final["count"].requires_grad
    assert torch.equal(out.final["pair"].two, NESTED["pair"].two)


class Wrapped(nn.Module):
    """A step that is a module."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(W.detach().clone())

    def forward(self, x, i):
        return torch.tanh(x @ self.weight)

    def method(self, x, i):
        return self(x, i)


class Plain:
    """A callable object that holds its parameters somewhere inside."""

    def __init__(self):
        self.inside = {"weights": [parameter(3, 3)]}

    def __call__(self, x, i):
        return torch.tanh(x @ self.inside["weights"][0])


def with_weight(weight, x, i):
    return torch.tanh(x @ weight)


def ways_to_hold_parameters():
    module, plain, weight = Wrapped(), Plain(), parameter(3, 3)
    yield "a module", module, list(module.parameters())
    yield "a method", module.method, list(module.parameters())
    yield "a closure over a module", lambda x, i: module(x, i), list(module.parameters())
    yield "an object", plain, plain.inside["weights"]
    yield "a partial", functools.partial(with_weight, weight), [weight]
    yield (
        "a closure over a partial",
        (lambda inner: lambda x, i: inner(x, i))(functools.partial(with_weight, weight)),
        [weight],
    )


@every_plan
@pytest.mark.parametrize("way", range(6))
def test_parameters_are_found_wherever_they_are(way, plan):
    name, step, wanted = list(ways_to_hold_parameters())[way]
    got = gradients(step, leaf(2, 3), 10, plan, SAVE_AT, wanted=wanted)
    true = gradients(step, leaf(2, 3), 10, None, SAVE_AT, wanted=wanted)
    assert same_bits(got[1], true[1]), name


def ways_to_hold_many():
    """A law for each phase of the rollout: the first step shows only one of them."""
    laws = nn.ModuleList(nn.Linear(3, 3) for _ in range(5))
    yield lambda x, i: laws[i // 2](x).tanh(), laws
    yield lambda x, i, laws=laws: laws[i // 2](x).tanh(), laws
    yield functools.partial(lambda laws, x, i: laws[i // 2](x).tanh(), list(laws)), laws
    yield functools.partial(lambda x, i, *, laws: laws[i // 2](x).tanh(), laws=laws), laws

    def keyword_only(x, i, *, laws=tuple(laws)):
        return laws[i // 2](x).tanh()

    yield keyword_only, laws


@every_plan
@pytest.mark.parametrize("way", range(5))
def test_parameters_may_depend_on_the_index(way, plan):
    step, laws = list(ways_to_hold_many())[way]
    wanted = list(laws.parameters())
    got = gradients(step, leaf(2, 3), 10, plan, SAVE_AT, wanted=wanted)
    true = gradients(step, leaf(2, 3), 10, None, SAVE_AT, wanted=wanted)
    assert all(grad is not None for grad in got[1])
    assert same_bits(got[1], true[1])


def test_parameters_out_of_sight_are_asked_for_and_can_be_given():
    hidden = {"far": {"away": {"and": {"deep": [parameter(3, 3)]}}}}
    weight = hidden["far"]["away"]["and"]["deep"][0]

    def step(x, i):
        return (x if i < 2 else x @ hidden["far"]["away"]["and"]["deep"][0]).tanh()

    x = leaf(2, 3).requires_grad_()
    out = al.rollout(step, x, 6, plan=plans.Binomial(2))
    with pytest.raises(RuntimeError, match=r"step [2-5] reads a parameter.*Pass it: .*parameters="):
        out.final.sum().backward()
    got = gradients(step, x, 6, plans.Binomial(2), wanted=[weight], parameters=iter([weight]))
    true = gradients(step, x, 6, None, wanted=[weight])
    assert same_bits(got[1], true[1])


class Dropping(nn.Module):
    """A law that draws from torch's global generator."""

    d_state = 2

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.mix = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return F.dropout(self.mix(x), 0.3) + 0.1 * torch.randn_like(x)


@every_plan
def test_dropout_replays(plan):
    step = al.Step(Dropping())
    start = small_start(step)
    wanted = list(step.law.parameters())

    def run(plan):
        torch.manual_seed(5)
        states, grads, _ = gradients(step, start, 10, plan, SAVE_AT, wanted=wanted)
        return [*states, *grads, torch.get_rng_state()]

    assert same_bits(run(plan), run(None))


@every_plan
def test_the_generators_go_on_as_if_nothing_was_recomputed(plan):
    step = al.Step(Dropping())
    start = small_start(step)
    torch.manual_seed(5)
    out = al.rollout(step, start, 10, plan=plan)
    after_the_rollout = torch.get_rng_state()
    torch.rand(3)  # between forward and backward pass somebody else draws
    between = torch.get_rng_state()
    rate(out.states).backward()
    assert torch.equal(torch.get_rng_state(), between)
    torch.manual_seed(5)
    al.rollout(step, start, 10)
    assert torch.equal(torch.get_rng_state(), after_the_rollout)


@every_plan
@pytest.mark.parametrize("name", ["MLP", "Conv"])
def test_autocast_recomputes_the_same(name, plan):
    """Without the cache of casts, which would sum a weight's gradients in 16 bits."""
    law = small_law(name)
    lift = nn.Linear(8, 8)

    def step(state, i):
        change = law(state)
        assert change.dtype == torch.bfloat16  # autocast is on, also when the step is made again
        return (
            lift(change.permute(0, 2, 3, 1).repeat(1, 1, 1, 2))[..., :4].permute(0, 3, 1, 2).float()
        )

    wanted = [*law.parameters(), *lift.parameters()]
    start = leaf(1, 4, 4, 4)

    def run(plan):
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            x = start.clone().requires_grad_()
            out = al.rollout(step, x, 10, SAVE_AT, plan)
        # The backward pass runs outside, as torch advises.
        grads = torch.autograd.grad(rate(out.states), [*wanted, x])
        return [*(state.detach() for state in out.states), *grads]

    assert same_bits(run(plan), run(None))


def test_a_rollout_on_another_thread_is_the_same():
    from concurrent.futures import ThreadPoolExecutor

    def run():
        return gradients(nested, NESTED, 10, plans.Binomial(3), SAVE_AT, wanted=[W, Z])[1]

    with ThreadPoolExecutor(1) as pool:
        assert same_bits(pool.submit(run).result(), run())


@pytest.mark.parametrize("plan", [None, *PLANS], ids=repr)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode, plan):
    with mode():
        start = tree_map(lambda x: x.clone(), NESTED)
        out = al.rollout(nested, start, 10, SAVE_AT, plan)
    true = al.rollout(nested, NESTED, 10, SAVE_AT)
    assert not any(x.requires_grad for x in tree_leaves(out.states))
    assert same_bits(tree_leaves(out.states), [x.detach() for x in tree_leaves(true.states)])


def test_a_rollout_reads_well():
    out = al.rollout(nested, NESTED, 100, al.SaveAt.at_most(10), budget="1 GiB")
    assert repr(out).startswith("Rollout(10 states at [10, 20, 30, 40, 50, 60, 70, 80, …], ")
    assert "StoreAll()" in repr(out)
    assert f"{out.predicted_bytes / 1024:.1f} KiB" in repr(out)
