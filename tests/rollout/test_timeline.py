"""What a rollout adds, step after step: predicted over measured."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import rate, small_law, small_start

import atheria_lab as al
from atheria_lab import plans
from atheria_lab.memory import track_peak
from atheria_lab.memory.owners import GRADIENTS, LOSS, work
from atheria_lab.memory.spans import record_spans
from atheria_lab.rollout.planner import measure_job
from atheria_lab.rollout.predict import peak_bytes, predicted_spans
from atheria_lab.rollout.stepper import Stepper


def measured(step, start, steps, plan, save_at):
    for parameter in step.law.parameters():
        parameter.grad = None
    with track_peak() as peak, record_spans(peak) as spans:
        out = al.rollout(step, start, steps, save_at, plan)
        with work(LOSS):
            value = rate(out.states)
        with work(GRADIENTS):
            value.backward()
    return spans


@st.composite
def any_plan(draw, unitary):
    count = draw(st.integers(1, 12))
    kinds = [plans.StoreAll(), plans.Segmented(count), plans.Binomial(count)]
    kinds += [plans.Tiered(1, 1, 1), plans.Truncated(count)]
    return draw(st.sampled_from([*kinds, plans.Reversible()] if unitary else kinds))


@pytest.mark.parametrize("name", ["MLP", "UNet", "Brickwork"])
@settings(max_examples=12)
@given(data=st.data())
def test_every_step_of_every_plan(name, data):
    step = al.Step(small_law(name))
    start = small_start(step, (16, 16)).psi
    plan = data.draw(any_plan(step.unitary), "plan")
    steps = data.draw(st.integers(2, 14), "steps")
    save_at = data.draw(
        st.sets(st.integers(1, steps), min_size=1, max_size=5).map(al.SaveAt.indices), "save_at"
    )
    job = measure_job(Stepper(step, start), steps, save_at.resolve(steps), rate)
    seen, told = measured(step, start, steps, plan, save_at), predicted_spans(plan, job)
    assert max(span.peak for span in told) == peak_bytes(plan, job)
    assert max(span.peak for span in seen) <= peak_bytes(plan, job) + 64
    assert [span.owner for span in told] == [span.owner for span in seen]
    slack = 2 * (job.cost.state + job.cost.cotangent + job.cost.parameters + job.loss.gradients)
    for at, (predicted, span) in enumerate(zip(told, seen, strict=True)):
        # Away from the peak, a gradient may come as a view of something larger.
        assert span.peak <= predicted.peak + job.cost.state + 64, (at, predicted, span)
        assert predicted.peak <= span.peak + slack, (at, predicted, span)


def test_the_sawtooth_of_binomial_checkpointing():
    """Going back, the memory falls as checkpoints are used up, and rises as others are stored."""
    step = al.Step(small_law("MLP"))
    start = small_start(step, (8, 8)).psi
    job = measure_job(Stepper(step, start), 40, [40], rate)
    back = [
        span.peak for span in predicted_spans(plans.Binomial(4), job) if span.owner == GRADIENTS
    ]
    assert len(back) == 40
    turns = sum((b > a) != (c > b) for a, b, c in zip(back, back[1:], back[2:], strict=False))
    assert turns > 5
