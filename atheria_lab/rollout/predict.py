"""The peak and the time of a plan, from the cost of one step.

Everything is counted over what is live when the rollout starts: the initial state and the
parameters belong to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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

    def handing_out(self, stored: int) -> Iterator[int]:
        """The peaks around the loss, where the plan holds ``stored`` bytes beside the states."""
        held = self.kept_bytes + stored
        yield held + self.loss.forward
        yield held + self.loss.graph + self.loss.backward


def peak_bytes(plan: Plan, job: Job) -> int:
    """What a rollout adds at its peak, forward, loss and backward."""
    if isinstance(plan, StoreAll):
        return max(_store_all(job))
    # Every other plan looks at the graph of the first step before it starts.
    look = job.cost.record
    if isinstance(plan, Checkpointed):
        return max(look, max(_checkpointed(plan, job)))
    if isinstance(plan, Reversible):
        return max(look, max(_reversible(job)))
    if isinstance(plan, Truncated):
        return max(look, max(_truncated(plan, job)))
    raise TypeError(f"plan: {type(plan).__name__} has no prediction.")


def seconds(plan: Plan, job: Job) -> float:
    """How long the rollout takes, forward and backward, without its loss."""
    cost, steps = job.cost, job.steps
    gradient = steps * cost.gradient_seconds
    if isinstance(plan, Reversible):
        return gradient + steps * (cost.advance_seconds + cost.invert_seconds)
    if isinstance(plan, StoreAll):
        return gradient
    return gradient + (plan.forward_steps(steps) - steps) * cost.advance_seconds


def _store_all(job: Job) -> Iterator[int]:
    cost, steps = job.cost, job.steps
    between = sum(1 for index in job.kept if 0 < index < steps)

    def graphs(done: int) -> int:
        """The graphs of some steps, and the states between them that only they keep."""
        return done * cost.graph + max(0, done - 1 - min(between, done - 1)) * cost.keeps_either

    passing = cost.state if steps > 1 and steps - 1 not in job.kept else 0
    yield graphs(steps - 1) + job.kept_bytes - cost.state + passing + cost.record
    yield from job.handing_out(graphs(steps))
    held = job.kept_bytes + job.loss.gradients
    if job.end:
        yield held + graphs(steps) + cost.backprop
    if job.end > 1:
        sums = cost.cotangent + cost.parameters + cost.largest
        yield held + graphs(steps - 1) + sums + cost.backprop


def _checkpointed(plan: Checkpointed, job: Job) -> Iterator[int]:
    cost, steps, kept = job.cost, job.steps, set(job.kept)
    block, capacity = plan.block(steps), plan.capacity(steps)
    positions = plan.checkpoints(steps)
    # A checkpoint that is handed out anyway costs nothing more; nor does the initial state.
    handed_out = kept | {0}  # the initial state is the caller's
    own = [
        _is_counted(plan, slot, job, handed_out=p * block in handed_out)
        for slot, p in enumerate(positions)
    ]
    stored = sum(own) * cost.state
    last = steps - 1
    passing = 0 if last in kept or last in (p * block for p in positions) or last == 0 else 1
    yield job.kept_bytes - cost.state + stored + passing * cost.state + cost.advance
    yield from job.handing_out(stored)

    held = job.kept_bytes + job.loss.gradients
    here, first, slots = 0, True, list(positions)
    for action, position in binomial.reverse(list(positions), -(-job.end // block), capacity):
        live = held + sum(own) * cost.state + (0 if first else cost.parameters + cost.cotangent)
        match action:
            case "load":
                here = position
                loaded = _loaded_bytes(plan, len(slots) - 1, job)
            case "advance":
                # The first step starts from the checkpoint, the next from a state of its own.
                passing = cost.state if (position - here) * block > 1 else loaded
                yield live + passing + cost.advance
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
                yield from _block(cost, live, min(block, job.end - start), loaded, first)
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


def _block(cost: StepCost, live: int, steps: int, loaded: int, first: bool) -> Iterator[int]:
    """The peaks of recording some steps and going back through them.

    ``loaded`` is what the state at the block's start costs: nothing if a checkpoint holds it.
    """
    start = min(loaded, cost.keeps_input)
    earlier = (steps - 1) * cost.graph + max(0, steps - 2) * cost.keeps_either
    if steps > 1:
        yield live + start + earlier + cost.state + cost.record
    else:
        yield live + loaded + cost.record

    def back(done: int) -> int:
        left = steps - done
        graphs = left * cost.graph + (left - 1) * cost.keeps_either + start
        held = left == 1 and not loaded
        return graphs + cost.keeps_output + (cost.backprop_held if held else cost.backprop)

    yield live + back(0)
    if first and steps > 1:
        yield live + cost.parameters + cost.cotangent + back(1)


def _reversible(job: Job) -> Iterator[int]:
    cost, steps, kept = job.cost, job.steps, set(job.kept)
    passing = 0 if steps - 1 in kept or steps == 1 else cost.state
    yield job.kept_bytes - cost.state + passing + cost.advance
    yield from job.handing_out(0)
    held = job.kept_bytes + job.loss.gradients
    last = job.end - 1
    # A state that came back stays in hand while its step is recorded, and while the one before
    # is made from it; the kept ones take its place.
    made = [index for index in range(1, job.end) if index not in kept]
    for first in (True, False)[: min(2, job.end)]:
        live = held + (0 if first else cost.parameters + cost.cotangent)
        yield live + (0 if first or not made else cost.state) + cost.invert
        in_hand = cost.state if (last in made if first else any(i < last for i in made)) else 0
        yield from _block(cost, live + in_hand, 1, 0, first)


def _truncated(plan: Truncated, job: Job) -> Iterator[int]:
    cost, steps, kept = job.cost, job.steps, set(job.kept)
    segments = {plan.start(index, steps): index for index in job.kept if index}
    starts = sorted(segments)
    own = [start != 0 and start not in kept for start in starts]
    stored = sum(own) * cost.state
    passing = 0 if steps - 1 in kept or steps - 1 in segments or steps == 1 else cost.state
    yield job.kept_bytes - cost.state + stored + passing + cost.advance
    yield from job.handing_out(stored)
    held = job.kept_bytes + job.loss.gradients
    first = True
    while starts:
        live = held + sum(own) * cost.state + (0 if first else cost.parameters + cost.cotangent)
        start = starts.pop()
        if (stop := min(segments[start], job.end)) > start:
            yield from _block(cost, live, stop - start, 0, first)
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
