"""Ground truth on the CPU: what the profiler's memory events say, and what track_peak says."""

import pytest
import torch
from small import LAWS, rate, small_law, small_start
from torch.profiler import ProfilerActivity, profile

import atheria_lab as al
from atheria_lab import plans
from atheria_lab.memory import track_peak
from atheria_lab.memory.scratch import allocated_peaks
from atheria_lab.rollout.planner import measure_job
from atheria_lab.rollout.predict import peak_bytes
from atheria_lab.rollout.stepper import Stepper


def profiled_peak(run):
    """The peak by the events of torch.profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def test_a_part_at_a_time():
    held = []
    peaks = allocated_peaks(
        lambda: held.append(torch.zeros(1000)),
        lambda: torch.zeros(500),
        held.clear,
        lambda: torch.zeros(10),
    )
    assert peaks == [(4000, 4000), (6000, 6000), (4000, 4000), (40, 40)]


def test_scratch_inside_an_operator_is_seen():
    x = torch.randn(1, 16, 64, 64)
    ((allocated, tensors),) = allocated_peaks(lambda: x.sort())
    assert tensors == x.nbytes + 2 * x.nbytes  # the values, and where they were
    assert allocated > tensors


def test_beside_a_profiler_that_runs_it_is_unknown_or_right():
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        peaks = allocated_peaks(lambda: torch.zeros(1000))
    assert peaks in (None, [(4000, 4000)])
    assert allocated_peaks(lambda: torch.zeros(1000)) == [(4000, 4000)]


def training(step, start, steps, plan):
    def run():
        for parameter in step.law.parameters():
            parameter.grad = None
        out = al.rollout(step, start, steps, al.SaveAt.at_most(3), plan)
        rate(out.states).backward()

    return run


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(
    "plan", [plans.StoreAll(), plans.Segmented(3), plans.Binomial(3)], ids=repr
)
def test_a_whole_training_agrees_to_one_steps_scratch(name, plan):
    """The allocator's peak is that of track_peak and one step's scratch, and is planned for."""
    step = al.Step(small_law(name))
    start = small_start(step, (32, 32))
    save_at = al.SaveAt.at_most(3).resolve(12)
    job = measure_job(Stepper(step, start), 12, save_at, rate)
    run = training(step, start, 12, plan)
    run()
    with track_peak() as peak:
        run()
    allocated = profiled_peak(run)
    cost = job.cost
    scratch = max(cost.advance_scratch, cost.record_scratch, cost.backprop_scratch)
    slack = 16 * 1024  # states of random generators, samples of the states
    assert peak.peak_bytes <= allocated + slack
    assert allocated <= peak.peak_bytes + scratch + slack
    assert allocated <= peak_bytes(plan, job.with_scratch()) + slack
