"""The space of a sweep: lists of settings, and the points of their product."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from atheria_lab._checks import instance, integer, number
from atheria_lab.hidden import ResetHidden
from atheria_lab.laws import Law, build
from atheria_lab.memory import parse_size
from atheria_lab.noise import Noise, Ramp
from atheria_lab.rollout import SaveAt, plans
from atheria_lab.training import Trainer
from atheria_lab.training.facts import noise_facts, noise_from, plan_facts

MOST_POINTS = 100_000
# What belongs to a machine or holds functions is no coordinate of a space.
_NOT_SWEPT = {
    "initial": "a function has no name that a result could be found again by",
    "limits": "they belong to a machine",
    "device": "a sweep trains on the CPUs of its workers",
    "history": "every loss is kept",
}
_REAL = ("lr", "gamma", "weight_decay", "clip")


class Value(NamedTuple):
    """One value of a list.

    Attributes:
        object: as :class:`~atheria_lab.Trainer` takes it; of a law, what builds it.
        facts: the same as JSON holds it, in one way only: 0 and 0.0, "1 MiB" and 1048576 agree.
    """

    object: Any
    facts: Any


@dataclass(frozen=True)
class MakeLaw:
    """A law that is made anew for each point, its weights drawn from the point's seed."""

    kind: type[Law]
    config: dict[str, Any]

    def __call__(self, seed: int) -> Law:
        """The law; torch's global generator is left as it was."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return self.kind(**self.config)


@dataclass(frozen=True)
class Point:
    """One training of a sweep.

    Attributes:
        given: the names that the space gave, and the point's values as JSON holds them.
        facts: every setting, those left out included, as JSON holds them.
        law: a law whose weights are the start, or what makes one from the seed.
        settings: the other arguments of :class:`~atheria_lab.Trainer`.
        episodes: how many are trained.
    """

    given: dict[str, Any]
    facts: dict[str, Any]
    law: Law | MakeLaw
    settings: dict[str, Any]
    episodes: int

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits: equal for equal settings, whatever space they come from."""
        text = json.dumps(self.facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def trainer(self, law: Law | None = None) -> Trainer:
        """A trainer of this point; with another law of the same kind, to check the settings."""
        if law is None:
            law = self.law(self.settings["seed"]) if isinstance(self.law, MakeLaw) else self.law
        return Trainer(law, **self.settings)

    def __repr__(self) -> str:
        return f"Point({', '.join(f'{name}={show(value)}' for name, value in self.given.items())})"


def points(space: Mapping[str, Any]) -> list[Point]:
    """Every point of the product of a space's lists; the last list runs the fastest.

    Args:
        space: names of :class:`~atheria_lab.Trainer`'s arguments, and "episodes" (1 if left out),
            with a list of values each, or a single value. ``law``, ``size`` and ``steps`` are
            needed. A law is a :class:`~atheria_lab.laws.Law`, whose weights every point starts
            from, or a description such as ``{"law": "MLP", "d_state": 8, "hidden": 16}``, whose
            weights are drawn from the point's seed. ``save_at`` and ``noise`` may be descriptions
            too: ``{"at_most": 10}``, ``{"phase": 0.1}``.

    Raises:
        TypeError: a value of the wrong kind, or something that may never end in place of a list.
        ValueError: an unknown name, an empty list, a value twice, too many points, or a value
            that a trainer refuses: the message names the point.
    """
    instance("space", space, Mapping, "a dict of names and lists of values")
    lists = {name: _values(name, value) for name, value in space.items()}
    for name in ("law", "size", "steps"):
        if name not in lists:
            raise ValueError(f"space: it has no {name!r}; every training needs one.")
    count = math.prod(map(len, lists.values()))
    if count > MOST_POINTS:
        raise ValueError(
            f"space: it has {count:,} points; a sweep takes at most {MOST_POINTS:,}. Make the "
            "lists shorter, or sweep over parts of it."
        )
    checked: dict[str, Law] = {}
    return [
        _point(dict(zip(lists, values, strict=True)), checked)
        for values in itertools.product(*lists.values())
    ]


def show(value: Any) -> str:
    """A value of a point for reading."""
    if isinstance(value, dict) and "law" in value:
        rest = ", ".join(
            f"{name}={setting}" for name, setting in value.items() if name not in ("law", "weights")
        )
        return f"{value['law']}({rest})"
    if isinstance(value, dict):
        return ", ".join(f"{name}={setting}" for name, setting in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _point(values: dict[str, Value], checked: dict[str, Law]) -> Point:
    given = {name: value.facts for name, value in values.items()}
    values = {**_usual(), **values}
    facts = {name: values[name].facts for name in sorted(values)}
    settings = {name: value.object for name, value in values.items()}
    episodes, law = settings.pop("episodes"), settings.pop("law")
    point = Point(given, facts, law, settings, episodes)
    key = json.dumps(facts["law"], sort_keys=True)
    try:
        if key not in checked:
            checked[key] = law(0) if isinstance(law, MakeLaw) else law
        point.trainer(checked[key])
    except (TypeError, ValueError) as error:
        raise type(error)(f"space: {point!r} is refused: {error}") from error
    return point


def _usual() -> dict[str, Value]:
    """What a trainer takes where nothing is given."""
    if not _USUAL:
        for name, parameter in inspect.signature(Trainer).parameters.items():
            if name not in _NOT_SWEPT and parameter.default is not parameter.empty:
                _USUAL[name] = _read(name, parameter.default)
        _USUAL["episodes"] = Value(1, 1)
    return _USUAL


_USUAL: dict[str, Value] = {}


def _values(name: str, value: Any) -> list[Value]:
    """The values of one name."""
    known = [*inspect.signature(Trainer).parameters, "episodes"]
    if name in _NOT_SWEPT:
        raise ValueError(f"space: {name!r} cannot be swept: {_NOT_SWEPT[name]}. Leave it out.")
    if name not in known:
        names = ", ".join(each for each in known if each not in _NOT_SWEPT)
        raise ValueError(f"space: got {name!r}; it takes {names}.")
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, range) and len(value) > MOST_POINTS:
        raise ValueError(
            f"space: {name!r} has {len(value):,} values; a sweep takes at most {MOST_POINTS:,}."
        )
    if hasattr(value, "__next__") or isinstance(value, set | frozenset):
        raise TypeError(
            f"space: {name!r} is a {type(value).__name__}, which may never end or has no order; "
            "give a list."
        )
    if not isinstance(value, list | range):
        value = [value]
    if len(value) == 0:
        raise ValueError(f"space: {name!r} is empty, so there is no point; give a value or more.")
    read = [_read(name, each) for each in value]
    seen: dict[str, Any] = {}
    for one, raw in zip(read, value, strict=True):
        text = json.dumps(one.facts, sort_keys=True)
        if text in seen:
            raise ValueError(f"space: {name!r} has {raw!r} twice; give each value once.")
        seen[text] = raw
    return read


def _read(name: str, value: Any) -> Value:
    """A value in its one form."""
    try:
        return _READERS.get(name, _plain)(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"space: {error}") from error


def _plain(name: str, value: Any) -> Value:
    if name in _REAL:
        value = number(name, value)
    elif not isinstance(value, bool) and hasattr(value, "__index__"):
        value = operator.index(value)
    elif not isinstance(value, str | float | None):
        raise TypeError(f"{name}: got {value!r}; a space takes numbers and words.")
    return Value(value, value)


def _law(name: str, value: Any) -> Value:
    if isinstance(value, Law):
        facts = {"law": type(value).__name__, **value.config(), "weights": value.fingerprint()}
        return Value(value, facts)
    if not isinstance(value, Mapping) or not isinstance(value.get("law"), str):
        raise TypeError(
            f"{name}: got {value!r}; it takes a Law, or a description such as "
            '{"law": "MLP", "d_state": 8, "hidden": 16}.'
        )
    config = {key: setting for key, setting in value.items() if key != "law"}
    try:
        with torch.random.fork_rng([]):
            law = build(value["law"], config)
    except TypeError as error:
        raise TypeError(f"{name}: got {dict(value)!r}: {error}") from error
    except RuntimeError as error:  # torch's own word for too little memory
        raise ValueError(
            f"{name}: got {dict(value)!r}, which cannot be built here: {error}. Make it smaller."
        ) from error
    return Value(MakeLaw(type(law), law.config()), {"law": value["law"], **law.config()})


def _size(name: str, value: Any) -> Value:
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name}: got {value!r}; it takes a side, or (height, width).")
        sides = (integer(name, value[0]), integer(name, value[1]))
        return Value(sides, list(sides))
    side = integer(name, value)
    return Value(side, side)


def _budget(name: str, value: Any) -> Value:
    most = None if value is None else parse_size(value, name=name)
    return Value(most, most)


def _save_at(name: str, value: Any) -> Value:
    if value is None:
        value = SaveAt.at_most(10)
    if isinstance(value, Mapping) and len(value) == 1:
        ((rule, numbers),) = value.items()
        if rule not in ("last", "every", "at_most", "indices", "all"):
            raise ValueError(f"{name}: got {value!r}; it takes a rule of SaveAt.")
        value = getattr(SaveAt, rule)(*([] if rule in ("last", "all") else [numbers]))
    instance(name, value, SaveAt, 'a SaveAt, or a description such as {"at_most": 10}')
    return Value(value, {value.rule: list(value.numbers)})


def _noise(name: str, value: Any) -> Value:
    if value is None:
        value = Noise()
    if isinstance(value, Mapping):
        value = noise_from(dict(value))
    instance(name, value, Noise | Ramp, 'a Noise, a Ramp, or a description such as {"phase": 0.1}')
    return Value(value, noise_facts(value))


def _plan(name: str, value: Any) -> Value:
    instance(name, value, plans.Plan | None, "one of atheria_lab.plans, or None")
    return Value(value, plan_facts(value))


def _reset(name: str, value: Any) -> Value:
    resets = ResetHidden.of(value)
    if not resets.between:
        raise ValueError(f"{name}: got {value!r}; a training starts every episode with fresh ones.")
    return Value(resets.steps, resets.steps)


def _loss(name: str, value: Any) -> Value:
    if not isinstance(value, str):
        raise TypeError(
            f"{name}: got {value!r}; a sweep takes the name of a loss, since a function has no "
            "name that a result could be found again by."
        )
    return Value(value, value)


def _episodes(name: str, value: Any) -> Value:
    count = integer(name, value)
    return Value(count, count)


_READERS: dict[str, Callable[[str, Any], Value]] = {
    "law": _law,
    "size": _size,
    "budget": _budget,
    "save_at": _save_at,
    "noise": _noise,
    "plan": _plan,
    "reset_every": _reset,
    "loss": _loss,
    "episodes": _episodes,
}
