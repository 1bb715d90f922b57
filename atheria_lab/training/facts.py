"""Plans and noises as JSON holds them, and back."""

from __future__ import annotations

from typing import Any

from atheria_lab.noise import Noise, Ramp
from atheria_lab.rollout import plans


def plan_facts(plan: plans.Plan | None) -> list[Any] | None:
    """A plan as JSON holds it."""
    return None if plan is None else [type(plan).__name__, dict(vars(plan))]


def plan_from(facts: list[Any] | None) -> plans.Plan | None:
    """The plan of what :func:`plan_facts` gave."""
    if facts is None:
        return None
    plan: plans.Plan = getattr(plans, facts[0])(**facts[1])
    return plan


def noise_facts(noise: Noise | Ramp) -> dict[str, Any]:
    """A noise or its curriculum as JSON holds it."""
    if isinstance(noise, Noise):
        return dict(vars(noise))
    return {
        "end": dict(vars(noise.end)),
        "episodes": noise.episodes,
        "start": dict(vars(noise.start)),
    }


def noise_from(facts: dict[str, Any]) -> Noise | Ramp:
    """The noise of what :func:`noise_facts` gave."""
    if "episodes" not in facts:
        return Noise(**facts)
    return Ramp(Noise(**facts["end"]), facts["episodes"], Noise(**facts["start"]))
