"""The peak and the time of a plan, from the cost of one step.

Everything is counted over what is live when the rollout starts: the initial state and the
parameters belong to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from atheria_lab.memory.owners import GRADIENTS, GRAPH, LOSS, PSI, SEGMENT
from atheria_lab.memory.spans import Span
from atheria_lab.rollout import binomial
from atheria_lab.rollout.cost import LossCost, StepCost
from atheria_lab.rollout.plans import (
    Binomial,
    Checkpointed,
    Plan,
    Reversible,
    StoreAll,
    Tiered,
    Truncated,
)


@dataclass(frozen=True)
class Job:
    """A rollout to be planned.

    Attributes:
        cost: of one step.
        loss: of the loss.
        steps: how many.
        kept: the indices of the states that are handed out, rising, the final one among them.
        felt: the last index that the loss feels; ``None`` is the final one.
        on_cpu: the states live there, as checkpoints in host memory do.
    """

    cost: StepCost
    loss: LossCost
    steps: int
    kept: tuple[int, ...]
    felt: int | None = None
    on_cpu: bool = True

    @property
    def end(self) -> int:
        """The backward pass starts here."""
        return self.steps if self.felt is None else self.felt

    @property
    def kept_bytes(self) -> int:
        """The states that are handed out; the initial one is the caller's."""
        return self.cost.state * sum(1 for index in self.kept if index)

    def with_scratch(self) -> Job:
        """The same, with what operators take inside: for what an allocator must give."""
        return replace(self, cost=self.cost.with_scratch())

    def handing_out(self, stored: int) -> Iterator[Span]:
        """The loss, there and back, where the plan holds ``stored`` bytes beside the states."""
        held = self.kept_bytes + stored
        yield Span(LOSS, 1, held + self.loss.forward)
        yield Span(LOSS, 1, held + self.loss.graph + self.loss.backward)


def peak_bytes(plan: Plan, job: Job) -> int:
    """What a rollout adds at its peak, forward, loss and backward."""
    return max(span.peak for span in _spans(plan, job, full=False))


def predicted_spans(plan: Plan, job: Job) -> list[Span]:
    """What a rollout does, step after step, and what it adds at the peak of each of them.

    One span for each step made, made again or gone back through, in order, and one for each way
    of the loss.
    """
    return list(_spans(plan, job, full=True))


def _spans(plan: Plan, job: Job, *, full: bool) -> Iterator[Span]:
    """All spans of a rollout, or only those that can be its peak."""
    if isinstance(plan, StoreAll):
        yield from _store_all(job, full)
        return
    # Every other plan looks at the graph of the first step before it starts.
    yield Span(SEGMENT, 1, job.cost.record)
    if isinstance(plan, Checkpointed):
        yield from _checkpointed(plan, job, full)
    elif isinstance(plan, Reversible):
        yield from _reversible(job, full)
    elif isinstance(plan, Truncated):
        yield from _truncated(plan, job, full)
    else:
        raise TypeError(f"plan: {type(plan).__name__} has no prediction.")


def seconds(plan: Plan, job: Job) -> float:
    """How long the rollout takes, forward and backward, without its loss."""
    cost, steps = job.cost, job.steps
    gradient = steps * cost.gradient_seconds
    if isinstance(plan, Reversible):
        return gradient + steps * (cost.advance_seconds + cost.invert_seconds)
    if isinstance(plan, StoreAll):
        return gradient
    return gradient + (plan.forward_steps(steps, job.kept) - steps) * cost.advance_seconds


def _store_all(job: Job, full: bool) -> Iterator[Span]:
    cost, steps, kept = job.cost, job.steps, set(job.kept)

    def graphs(done: int, handed_out: int) -> int:
        """The graphs of some steps, and the states between them that only they keep."""
        return done * cost.graph + max(0, done - 1 - min(handed_out, done - 1)) * cost.keeps_either

    handed_out = 0 if full else sum(1 for index in job.kept if 0 < index < steps)
    for i in range(steps) if full else (steps - 1,):
        handed_out += full and i in kept and i > 0
        passing = cost.state if i > 0 and i not in kept else 0
        held = handed_out * cost.state + passing
        yield Span(GRAPH, 1, graphs(i, handed_out) + held + cost.record)
    yield from job.handing_out(graphs(steps, handed_out))
    held = job.kept_bytes + job.loss.gradients
    sums = cost.cotangent + cost.parameters + cost.largest
    for back in range(job.end if full else min(2, job.end)):
        left = steps - back
        counted = graphs(left, min(handed_out, max(0, left - 1)) if full else handed_out)
        yield Span(GRADIENTS, 1, held + counted + (sums if back else 0) + cost.backprop)


def _forward(job: Job, own: dict[int, bool], copied: set[int], full: bool) -> Iterator[Span]:
    """The forward sweep of a tape.

    Args:
        job: the rollout.
        own: the steps at whose start a state is stored; whether it costs something there.
        copied: of them, those whose state is stored as a copy.
        full: every step, or the last.
    """
    cost, steps, kept = job.cost, job.steps, set(job.kept)
    stored = 0 if full else sum(own.values())
    handed_out = 0 if full else sum(1 for index in job.kept if 0 < index < steps)
    for i in range(steps) if full else (steps - 1,):
        if full:
            stored += own.get(i, False)
            handed_out += i in kept and i > 0
        passing = 0 if i == 0 or i in kept or (i in own and i not in copied) else 1
        yield Span(PSI, 1, (handed_out + stored + passing) * cost.state + cost.advance)


def _checkpointed(plan: Checkpointed, job: Job, full: bool) -> Iterator[Span]:
    cost, steps = job.cost, job.steps
    block, capacity = plan.block(steps), plan.capacity(steps)
    positions, anchors = plan.checkpoints(steps, job.kept), plan.anchors(steps, job.kept)
    # A checkpoint that is handed out anyway costs nothing more; nor does the initial state.
    handed_out = {*job.kept, 0}  # the initial state is the caller's
    own = [
        _is_counted(plan, slot, job, handed_out=p * block in handed_out)
        for slot, p in enumerate(positions)
    ]
    starts = [position * block for position in positions]
    copied = {start for slot, start in enumerate(starts) if not _on_device(plan, slot)}
    yield from _forward(job, dict(zip(starts, own, strict=True)), copied, full)
    yield from job.handing_out(sum(own) * cost.state)

    held = job.kept_bytes + job.loss.gradients
    here, first, slots = 0, True, list(positions)
    schedule = binomial.reverse(list(positions), -(-job.end // block), capacity, anchors)
    for action, position in schedule:
        live = held + sum(own) * cost.state + (0 if first else cost.parameters + cost.cotangent)
        match action:
            case "load":
                here = position
                loaded = _loaded_bytes(plan, len(slots) - 1, job)
            case "advance":
                # The first step starts from the checkpoint, the next from a state of its own.
                count = (position - here) * block
                for i in range(count) if full else (count - 1,):
                    yield Span(PSI, 1, live + (cost.state if i else loaded) + cost.advance)
                here, loaded = position, cost.state
            case "store":
                own.append(_is_counted(plan, len(slots), job, handed_out=False))
                slots.append(position)
                loaded = 0 if _on_device(plan, len(slots) - 1) else loaded
            case "drop":
                own.pop()
                slots.pop()
            case "reverse":
                start = position * block
                count = min(block, job.end - start)
                yield from _block(cost, live, count, loaded, first, full)
                first = False


def _is_counted(plan: Checkpointed, slot: int, job: Job, *, handed_out: bool) -> bool:
    match plan.tier(slot) if isinstance(plan, Tiered) else "device":
        case "disk":
            return False
        case "host":
            return job.on_cpu
        case _:
            return not handed_out


def _on_device(plan: Checkpointed, slot: int) -> bool:
    return not isinstance(plan, Tiered) or plan.tier(slot) == "device"


def _loaded_bytes(plan: Checkpointed, slot: int, job: Job) -> int:
    """A checkpoint that comes from another memory is a new copy."""
    tier = plan.tier(slot) if isinstance(plan, Tiered) else "device"
    same_memory = tier == "device" or (tier == "host" and job.on_cpu)
    return 0 if same_memory else job.cost.state


def _block(
    cost: StepCost, live: int, steps: int, loaded: int, first: bool, full: bool
) -> Iterator[Span]:
    """Recording some steps, and going back through them.

    ``loaded`` is what the state at the block's start costs: nothing if a checkpoint holds it.
    """
    start = min(loaded, cost.keeps_input)
    for i in range(steps) if full else (steps - 1,):
        earlier = i * cost.graph + max(0, i - 1) * cost.keeps_either
        entry = start + earlier + cost.state if i else loaded
        yield Span(SEGMENT, 1, live + entry + cost.record)
    for done in range(steps if full else min(2 if first else 1, steps)):
        left = steps - done
        graphs = left * cost.graph + (left - 1) * cost.keeps_either + start
        alone = left == 1 and not loaded
        back = graphs + cost.keeps_output + (cost.backprop_held if alone else cost.backprop)
        summed = cost.parameters + cost.cotangent if first and done else 0
        yield Span(GRADIENTS, 1, live + summed + back)


def _reversible(job: Job, full: bool) -> Iterator[Span]:
    cost, kept = job.cost, set(job.kept)
    yield from _forward(job, {}, set(), full)
    yield from job.handing_out(0)
    held = job.kept_bytes + job.loss.gradients
    # A state that came back stays in hand while its step is recorded, and while the one before
    # is made from it; the kept ones take its place.
    made = [index for index in range(1, job.end) if index not in kept]
    for i in reversed(range(job.end)) if full else range(job.end - 1, max(-1, job.end - 3), -1):
        first = i == job.end - 1
        live = held + (0 if first else cost.parameters + cost.cotangent)
        # Without every step, the second stands for all that follow.
        before = (i + 1 not in kept) if full else bool(made)
        here = (i and i not in kept) if full or first else any(index <= i for index in made)
        yield Span(PSI, 1, live + (cost.state if before and not first else 0) + cost.invert)
        yield from _block(cost, live + (cost.state if here else 0), 1, 0, first, full)


def _truncated(plan: Truncated, job: Job, full: bool) -> Iterator[Span]:
    cost, steps, kept = job.cost, job.steps, set(job.kept)
    segments = {plan.start(index, steps): index for index in job.kept if index}
    starts = sorted(segments)
    own = [start != 0 and start not in kept for start in starts]
    yield from _forward(job, dict(zip(starts, own, strict=True)), set(), full)
    yield from job.handing_out(sum(own) * cost.state)
    held = job.kept_bytes + job.loss.gradients
    first = True
    while starts:
        live = held + sum(own) * cost.state + (0 if first else cost.parameters + cost.cotangent)
        start = starts.pop()
        if (stop := min(segments[start], job.end)) > start:
            yield from _block(cost, live, stop - start, 0, first, full)
            first = False
        own.pop()


def largest_binomial(job: Job, budget: int) -> Binomial | None:
    """The binomial plan with the most slots that surely stays within a budget."""
    smallest = peak_bytes(Binomial(1), job)
    if smallest > budget:
        return None
    # A slot more costs a state at the most.
    more = (budget - smallest) // job.cost.state if job.cost.state else job.steps
    return Binomial(min(job.steps, 1 + more))
