"""on_step: looking on while a rollout is made, and stopping it."""

import pytest
import torch
from small import small_law

import atheria_lab as al
from atheria_lab import plans

PLANS = [plans.StoreAll(), plans.Segmented(3), plans.Binomial(2), plans.Truncated(4)]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=repr)


class StopError(Exception):
    pass


def run(plan, on_step=None):
    law, psi = small_law("Conv"), al.lattice.random(4, 2, seed=1)
    out = al.rollout(al.Step(law), psi, 10, al.SaveAt.at_most(3), plan, on_step=on_step)
    return law, out


def raising(call):
    """Raises when it is called for that time."""
    calls = iter(range(1, 10_000))

    def on_step(psi, done):
        if next(calls) == call:
            raise StopError

    return on_step


@every_plan
def test_it_sees_every_state_as_it_is_made_and_changes_nothing(plan):
    seen = []
    law, out = run(plan, lambda psi, done: seen.append((done, psi)))
    assert [done for done, _ in seen] == list(range(1, 11))
    assert all(not psi.requires_grad for _, psi in seen)
    assert torch.equal(seen[-1][1], out.final)
    states = dict(seen)
    out.final.abs().square().square().mean().backward()
    back = seen[10:]
    if isinstance(plan, plans.StoreAll):  # makes nothing anew
        assert back == [(done, None) for done in range(9, -1, -1)]
    else:
        assert back and all(torch.equal(psi, states[done]) for done, psi in back)

    other, quiet = run(plan)
    quiet.final.abs().square().square().mean().backward()
    for one, two in zip(law.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_it_sees_the_states_that_an_inverse_gives_back():
    seen = []
    step, psi = al.Step(al.laws.Brickwork(2)), al.lattice.random(4, 2)
    out = al.rollout(
        step, psi, 5, plan=plans.Reversible(), on_step=lambda psi, done: seen.append(done)
    )
    out.final.real.sum().backward()
    assert seen[:5] == [1, 2, 3, 4, 5]
    assert {4, 3, 2, 1} <= set(seen[5:])


@every_plan
def test_what_it_raises_ends_the_way_there_and_the_way_back(plan):
    with pytest.raises(StopError):
        run(plan, raising(5))
    _, out = run(plan, raising(12))
    with pytest.raises(StopError):
        out.final.abs().square().mean().backward()


def test_a_training_that_is_stopped_leaves_the_law_as_it_was_and_goes_on():
    def trainer():
        return al.Trainer(small_law("MLP"), 8, 6, "1 MiB", measure="never")

    one, two = trainer(), trainer()
    before = [parameter.detach().clone() for parameter in one.law.parameters()]
    with pytest.raises(StopError):
        one.train_episode(on_step=raising(3))
    for was, now in zip(before, one.law.parameters(), strict=True):
        assert torch.equal(was, now)
        assert now.grad is None
    assert one.train_episode().loss == two.train_episode().loss


def test_it_must_be_a_function():
    with pytest.raises(TypeError, match="on_step: got 3"):
        run(None, 3)
