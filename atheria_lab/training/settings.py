"""What a trainer is set to: plain values, checked, as a saved run holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from atheria_lab._checks import integer, number, one_of
from atheria_lab.hidden import ResetHidden
from atheria_lab.training.episode import Backend, Precision
from atheria_lab.training.planned import Measure

Schedule = Literal["constant", "cosine"]


def checked(
    *,
    lr: float,
    steps: int,
    seed: int,
    batch: int,
    gamma: float,
    reset_every: int | ResetHidden | None,
    schedule: Schedule,
    schedule_episodes: int,
    weight_decay: float,
    clip: float,
    precision: Precision,
    measure: Measure,
    history: int,
    backend: Backend,
    **others: Any,
) -> dict[str, Any]:
    """The settings of :class:`~atheria_lab.training.trainer.Trainer`, or a refusal by name.

    ``others`` are checked where they are used.
    """
    resets = ResetHidden.of(reset_every)
    if not resets.between:
        raise ValueError(
            "reset_every: got ResetHidden.never(); every episode of a training starts with fresh "
            "hidden tensors, so that a saved run goes on as it would have. Take episode() or "
            "every(n)."
        )
    return {
        **others,
        "reset_every": resets.steps,
        "lr": number("lr", lr, least=0.0),
        "steps": integer("steps", steps),
        "seed": integer("seed", seed, least=0),
        "batch": integer("batch", batch),
        "gamma": number("gamma", gamma, least=0.0, most=1.0),
        "schedule": one_of("schedule", schedule, get_args(Schedule)),
        "schedule_episodes": integer("schedule_episodes", schedule_episodes),
        "weight_decay": number("weight_decay", weight_decay, least=0.0),
        "clip": number("clip", clip, least=0.0),
        "precision": one_of("precision", precision, get_args(Precision)),
        "measure": one_of("measure", measure, get_args(Measure)),
        "history": integer("history", history),
        "backend": one_of("backend", backend, get_args(Backend)),
    }


def rate(settings: Mapping[str, Any], episode: int) -> float:
    """The part of the learning rate that the schedule leaves in an episode."""
    if settings["schedule"] == "constant":
        return 1.0
    done = min(1.0, episode / settings["schedule_episodes"])
    return 0.5 * (1 + math.cos(math.pi * done))
