"""Which parameters a step is found to close over."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from atheria_lab.rollout.parameters import closed_over
from atheria_lab.rollout.stepper import Stepper

GLOBAL = torch.ones(2, requires_grad=True)


def found(step, given=None):
    stepper = Stepper(step, torch.ones(2))
    record, _ = stepper.record(stepper.leaves, 0)
    return {id(leaf) for leaf in closed_over(stepper, record, given)}


def ids(*tensors):
    return {id(tensor) for tensor in tensors}


@pytest.fixture
def weight():
    return torch.ones(2, requires_grad=True)


@pytest.fixture
def other():
    return torch.ones(2, requires_grad=True)


def test_what_the_first_step_reads_is_found_however_deep(weight):
    box = {"a": [{"b": [{"c": [{"d": weight}]}]}]}
    assert found(lambda x, i: x * box["a"][0]["b"][0]["c"][0]["d"]) == ids(weight)


def test_what_the_function_holds_is_found_though_the_first_step_does_not_read_it(weight, other):
    def reads_one(x, i, *, late=other):
        return x * (late if i > 5 else weight)

    assert found(reads_one) == ids(weight, other)
    assert found(functools.partial(reads_one, late=other)) == ids(weight, other)
    assert found(lambda x, i: reads_one(x, i)) == ids(weight, other)


def test_modules_are_found_with_all_their_parameters():
    laws = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    holder = SimpleNamespace(laws=laws)
    everything = ids(*laws.parameters())
    assert found(lambda x, i: laws[i](x)) == everything
    assert found(lambda x, i: holder.laws[i](x)) == everything

    class Method:
        def __init__(self):
            self.laws = list(laws)

        def step(self, x, i):
            return self.laws[i](x)

    assert found(Method().step) == everything


def test_globals_that_the_function_names_are_found():
    assert found(lambda x, i: x * GLOBAL if i > 3 else x * 1) == ids(GLOBAL)


def test_each_is_found_once_and_only_leaves_that_need_a_gradient(weight):
    frozen, again = torch.ones(2), weight
    computed = weight * 2

    def step(x, i):
        return x * weight * again * frozen if i < 3 else x * computed

    assert found(step, given=[weight, frozen]) == ids(weight)


def test_what_refers_to_itself_is_searched_once(weight):
    ring = SimpleNamespace(weight=weight)
    ring.ring = ring
    assert found(lambda x, i: x * (ring.weight if i else 1)) == ids(weight)


def test_a_name_that_is_bound_later_is_no_obstacle(weight):
    def step(x, i):
        return x * weight if i == 0 else later(x)

    assert found(step) == ids(weight)

    def later(x):
        return x


def test_parameters_are_added_by_hand(weight, other):
    assert found(lambda x, i: x * weight, given=[other]) == ids(weight, other)
