"""A trainer as a file, and back: what goes into it, and how it is put together again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atheria_lab._checks import instance
from atheria_lab.laws.base import Law
from atheria_lab.laws.base import build as build_law
from atheria_lab.rollout import SaveAt
from atheria_lab.scale import ranks
from atheria_lab.training import checkpoints
from atheria_lab.training.facts import noise_facts, noise_from, plan_facts, plan_from
from atheria_lab.training.losses import Loss

if TYPE_CHECKING:
    from atheria_lab.training.trainer import Trainer


def save(trainer: Trainer, path: Path) -> None:
    """Everything that the trainer's next episode depends on, in one file."""
    law = trainer.law
    tensors = {f"law.{name}": tensor for name, tensor in law.state_dict().items()}
    optimizer = trainer.optimizer.state_dict()
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    scheduler = trainer.scheduler.state_dict()
    scheduler.pop("lr_lambdas")  # a function; the settings say which
    facts = {
        "law": [type(law).__name__, law.config()] if isinstance(law, Law) else None,
        "settings": trainer.settings,
        "budget": trainer.budget,
        "save_at": [trainer.save_at.rule, list(trainer.save_at.numbers)],
        "loss": trainer.loss_name,
        "noise": noise_facts(trainer.noise),
        "initial": trainer.initial is None,
        "given_plan": plan_facts(trainer.planned.given),
        "plan": plan_facts(trainer.plan),
        "predicted_bytes": trainer.predicted_bytes,
        "episode": trainer.episode,
        "skipped": trainer.skipped,
        "groups": optimizer["param_groups"],
        "scheduler": scheduler,
    }
    checkpoints.write(path, tensors, facts)


def load(
    cls: type[Trainer],
    path: Path,
    *,
    law: nn.Module | None,
    loss: Loss | None,
    initial: Callable[[int], Tensor] | None,
    device: torch.device | str | None,
) -> Trainer:
    """The trainer of a file; see :meth:`Trainer.load`."""
    ranks.gather(None)  # rank 0 may still have been writing it
    tensors, facts = _read(path)
    if law is None:
        if facts["law"] is None:
            raise ValueError(f"law: {path} holds a law of your own; pass an instance of it.")
        law = build_law(*facts["law"])
    if loss is None and facts["loss"] is None:
        raise ValueError(f"loss: {path} was trained with a function; pass it.")
    if initial is None and not facts["initial"]:
        raise ValueError(f"initial: {path} was trained with a function; pass it.")
    weights = {
        name.removeprefix("law."): value
        for name, value in tensors.items()
        if name.startswith("law.")
    }
    instance("law", law, nn.Module, "a torch.nn.Module")
    law.to(next(value.dtype for value in weights.values() if value.is_floating_point()))
    try:
        law.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"law: the weights in {path} are of another law: {error}") from error

    settings = facts["settings"]
    if isinstance(settings["size"], list):
        settings["size"] = tuple(settings["size"])
    rule, numbers = facts["save_at"]
    trainer = cls(
        law,
        budget=facts["budget"],
        save_at=SaveAt(rule, tuple(numbers)),
        loss=loss if loss is not None else facts["loss"],
        noise=noise_from(facts["noise"]),
        initial=initial,
        plan=plan_from(facts["given_plan"]),
        device=device,
        **settings,
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    trainer.optimizer.load_state_dict({"state": state, "param_groups": facts["groups"]})
    trainer.scheduler.load_state_dict({**facts["scheduler"], "lr_lambdas": [None]})
    trainer.episode = facts["episode"]
    trainer.skipped = facts["skipped"]
    trainer.planned.plan = plan_from(facts["plan"])
    trainer.planned.predicted_bytes = facts["predicted_bytes"]
    trainer.saved = path, trainer.episode
    return trainer


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is in the file; where there are several ranks, all must find the same."""
    if ranks.count() == 1:
        return checkpoints.read(path)
    found: list[tuple[dict[str, Tensor], dict[str, Any]]] = []

    def read() -> None:
        found.append(checkpoints.read(path))

    ranks.together(read)
    tensors, facts = found[0]
    ranks.check_same({f"path {path.name}": checkpoints.digest(json.dumps(facts), tensors)})
    return tensors, facts
