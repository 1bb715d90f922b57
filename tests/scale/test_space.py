"""The points of a space: what they are, how they are told apart, what is refused."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import atheria_lab as al
from atheria_lab.scale import points
from atheria_lab.scale.peak import Foresight

LAW = {"law": "MLP", "d_state": 2, "hidden": 3}
ONE = {"law": LAW, "size": 8, "steps": 6}


def fingerprints(**changes):
    return [point.fingerprint for point in points({**ONE, **changes})]


@given(
    gammas=st.lists(st.floats(0, 1), min_size=1, max_size=3, unique=True),
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=3, unique=True),
    steps=st.lists(st.integers(1, 10**6), min_size=1, max_size=2, unique=True),
)
def test_the_points_are_the_product_of_the_lists_the_last_one_fastest(gammas, seeds, steps):
    found = points({**ONE, "gamma": gammas, "steps": steps, "seed": seeds})
    wanted = [(gamma, count, seed) for gamma in gammas for seed in seeds for count in steps]
    told = [tuple(point.given[name] for name in ("gamma", "steps", "seed")) for point in found]
    assert sorted(told) == sorted(wanted)
    # "steps" stands where the space names it first; the seed, named last, runs the fastest.
    assert told == [(g, s, e) for s, g, e in itertools.product(steps, gammas, seeds)]
    assert len({point.fingerprint for point in found}) == len(found)


def test_a_fingerprint_is_that_of_the_settings_however_they_are_spelt():
    assert fingerprints(gamma=0, budget="1 MiB") == fingerprints(gamma=0.0, budget=2**20)
    assert fingerprints(seed=np.int64(3)) == fingerprints(seed=range(3, 4))
    assert fingerprints(gamma=np.array([0.5])) == fingerprints(gamma=torch.tensor([0.5]))
    assert fingerprints(save_at={"at_most": 10}, noise={"phase": 0.0}) == fingerprints()
    assert fingerprints(gamma=0.01, lr=1e-4, episodes=1) == fingerprints()
    assert fingerprints(size=[(8, 8)]) != fingerprints(size=[(8, 16)])
    assert fingerprints(law={"law": "MLP", "d_state": 2, "hidden": 4}) != fingerprints()
    # And the same in another process, on another day.
    assert json.loads(json.dumps(points(ONE)[0].facts)) == points(ONE)[0].facts


def test_a_law_of_ones_own_starts_from_its_weights():
    torch.manual_seed(0)
    law = al.laws.MLP(2, hidden=3)
    (before,) = fingerprints(law=law)
    (point,) = points({**ONE, "law": law})
    assert point.trainer().law is law
    with torch.no_grad():
        law.inner.weight += 1
    assert fingerprints(law=law) != [before]


def test_the_weights_of_a_described_law_follow_from_the_seed():
    first, other = points({**ONE, "seed": [1, 2]})
    (again,) = points({**ONE, "seed": 1, "gamma": 0.5})
    before = torch.random.get_rng_state()
    assert first.trainer().law.fingerprint() == again.trainer().law.fingerprint()
    assert first.trainer().law.fingerprint() != other.trainer().law.fingerprint()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gamma": []}, "'gamma' is empty"),
        ({"seed": itertools.count()}, "'seed' is a count, which may never end"),
        ({"seed": range(10**12)}, "1,000,000,000,000 values; a sweep takes at most"),
        ({"seed": range(1000), "steps": range(1, 1001)}, "1,000,000 points; a sweep takes"),
        ({"gamma": {0.1, 0.2}}, "'gamma' is a set"),
        ({"gamma": [0, 0.0]}, "'gamma' has 0.0 twice"),
        ({"gamma": [0.1, float("nan")]}, "gamma: got nan"),
        ({"gamma": [0.5, 2]}, "gamma=2.* is refused: gamma: got 2.0; it takes"),
        ({"gama": [0.5]}, "space: got 'gama'; it takes law, size, steps"),
        ({"steps": [0]}, "steps: got 0"),
        ({"steps": [1.5]}, "steps: got 1.5"),
        ({"episodes": 0}, "episodes: got 0"),
        ({"size": [(8, 8, 8)]}, "size: got"),
        ({"budget": ["12 parsecs"]}, "budget: got '12 parsecs'"),
        ({"law": "MLP"}, "law: got 'MLP'; it takes a Law, or a description"),
        ({"law": [{"law": "MPL", "d_state": 2}]}, "law: got 'MPL'; known are"),
        ({"law": [{"law": "MLP"}]}, "d_state"),
        ({"loss": [lambda states: 0]}, "a function has no name"),
        ({"loss": "energy"}, "is constant under"),
        ({"device": "cuda"}, "'device' cannot be swept"),
        ({"save_at": {"some": 3}}, "it takes a rule of SaveAt"),
        ({"noise": 0.5}, "a Noise, a Ramp"),
        ({"seed": [True]}, "seed: got True"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(changes, words):
    with pytest.raises((ValueError, TypeError), match=words):
        points({**ONE, **changes})


def test_a_space_without_a_law_or_that_is_no_dict_is_refused():
    with pytest.raises(ValueError, match="it has no 'law'"):
        points({"size": 8, "steps": 6})
    with pytest.raises(TypeError, match="a dict of names"):
        points([ONE])


@pytest.mark.parametrize("law", ["MLP", "Conv", "UNet", "ConvLSTMUNet", "Brickwork"])
@pytest.mark.parametrize("budget", [None, "4 MiB"])
def test_the_declared_memory_holds_what_a_training_takes(law, budget):
    (point,) = points(
        {"law": {"law": law, "d_state": 2}, "size": 16, "steps": 20, "budget": budget,
         "noise": {"phase": 0.1}, "save_at": {"at_most": 3}}
    )  # fmt: skip
    declared = Foresight().declared_bytes(point)
    with al.memory.track_peak() as peak:
        trainer = point.trainer()
        trainer.train_episode()
    assert peak.peak_bytes <= declared
    assert declared < 3 * peak.peak_bytes + 2**20


def test_one_look_at_a_step_serves_other_lengths():
    space = {**ONE, "steps": [2, 3, 40, 1000], "save_at": {"at_most": 2}}
    shared = Foresight()
    for point in points(space):
        assert shared.declared_bytes(point) == Foresight().declared_bytes(point)
    assert len(shared._jobs) == 1


def test_the_memory_of_a_lattice_that_does_not_fit_here_is_known():
    (point,) = points({**ONE, "size": 2**17, "steps": 1000})
    assert Foresight().declared_bytes(point) > 2**40


def test_a_budget_that_no_plan_meets_and_a_size_that_the_law_refuses_name_the_point():
    (small,) = points({**ONE, "budget": "1 KiB"})
    with pytest.raises(al.BudgetError, match=r"Point\(law=MLP.* is refused: no exact plan"):
        Foresight().declared_bytes(small)
    (odd,) = points({**ONE, "law": {"law": "UNet", "d_state": 2}, "size": 7})
    with pytest.raises(ValueError, match="size=7.* is refused: .*multiples"):
        Foresight().declared_bytes(odd)
