"""The contract that every law keeps."""

import copy
import json

import pytest
import torch
from cones import noise
from small import LAWS, small_law
from torch import nn

import atheria_lab as al
from atheria_lab.laws import base

every_law = pytest.mark.parametrize("name", LAWS)


@pytest.fixture
def registry(monkeypatch):
    """Laws of a test are forgotten after it."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))


@every_law
def test_config_as_json_builds_the_law_again(name):
    law = small_law(name)
    config = json.loads(json.dumps(law.config()))
    again = al.laws.build(name, config)
    assert type(again) is type(law)
    assert again.config() == law.config()
    again.load_state_dict(law.state_dict())
    x = noise(1, 4, 4, 4).float()
    assert torch.equal(again(x), law(x))
    assert again.fingerprint() == law.fingerprint()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("MLP", {"d_state": 3, "hidden": 5, "activation": "tanh"}),
        ("Conv", {"d_state": 3, "hidden": 5, "activation": "relu"}),
        ("UNet", {"d_state": 3, "hidden": 5, "levels": 3, "activation": "gelu"}),
        ("ConvLSTMUNet", {"d_state": 3, "hidden": 5, "levels": 3, "activation": "gelu"}),
        ("Brickwork", {"d_state": 3, "spread": 0.7, "seed": 4}),
    ],
)
def test_config_is_every_argument(name, config):
    law = al.laws.build(name, config)
    assert law.config() == config
    law.config()["d_state"] = 99  # a copy
    assert law.config() == config
    for key, value in config.items():
        assert f"{key}={value!r}" in repr(law)


@every_law
def test_the_shape_is_kept_and_everything_takes_part(name):
    law = small_law(name, torch.float64)
    x = noise(3, 4, 4, 6).requires_grad_()
    change = law(x)
    assert (change.shape, change.dtype) == (x.shape, x.dtype)
    weights = noise(*change.shape)
    grads = torch.autograd.grad((change * weights).sum(), [x, *law.parameters()])
    assert all(torch.isfinite(grad).all() and grad.any() for grad in grads)
    assert (grads[0] != 0).all()


@every_law
def test_the_empty_lattice_stays_empty(name):
    assert not LAWS[name]()(torch.zeros(1, 4, 4, 4)).any()


@every_law
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 2, 4, 4), (1, 5, 4, 4), (4, 4, 4)], ids=str)
def test_other_channels_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"^x: got shape .*; this law takes \[B, 4, H, W\]"):
        small_law(name)(torch.zeros(shape))


@every_law
@pytest.mark.parametrize(("d_state", "error"), [(0, ValueError), (1.5, TypeError)])
def test_d_state_is_a_whole_number(name, d_state, error):
    with pytest.raises(error, match=f"^d_state: got {d_state}; it takes "):
        getattr(al.laws, name)(d_state)


def test_kinds_of_laws():
    assert [name for name in LAWS if small_law(name).recurrent] == ["ConvLSTMUNet"]
    assert [name for name in LAWS if small_law(name).unitary] == ["Brickwork"]


# Fingerprints


@every_law
def test_every_weight_is_in_the_fingerprint(name):
    law = small_law(name)
    first = law.fingerprint()
    assert len(bytes.fromhex(first)) == 32
    assert copy.deepcopy(law).fingerprint() == first
    seen = {first}
    for parameter in law.parameters():
        parameter.data.flatten()[-1:].nextafter_(torch.tensor(torch.inf))  # by a single bit
        seen.add(law.fingerprint())
    assert len(seen) == 1 + len(list(law.parameters()))


def test_name_config_and_precision_are_in_the_fingerprint(registry):
    class Sibling(al.laws.MLP):
        """Another law with the same weights."""

    laws = [
        al.laws.MLP(2, hidden=3),
        al.laws.MLP(2, hidden=3, activation="tanh"),
        al.laws.MLP(2, hidden=3).double(),
        al.laws.MLP(2, hidden=3).bfloat16(),
        al.laws.MLP(2, hidden=3).half(),  # of zeros the same bytes as bfloat16
        Sibling(2, hidden=3),
    ]
    for law in laws:
        for parameter in law.parameters():
            parameter.data.zero_()
    assert len({law.fingerprint() for law in laws}) == len(laws)


def test_any_module_has_a_fingerprint():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    first = al.laws.fingerprint(module)
    assert al.laws.fingerprint(copy.deepcopy(module)) == first
    module[1].num_batches_tracked += 1
    assert al.laws.fingerprint(module) != first


# Laws of one's own


def test_a_law_of_ones_own_is_known_by_its_name(registry):
    class Decay(al.laws.Law):
        def __init__(self, d_state, rate=0.1):
            super().__init__(d_state, rate=rate)

        def forward(self, x):
            return -self._config["rate"] * x

    law = al.laws.build("Decay", Decay(2, rate=0.5).config())
    assert torch.equal(law(torch.ones(1, 4, 2, 2)), torch.full((1, 4, 2, 2), -0.5))
    with pytest.raises(NotImplementedError, match="Decay does not say its radius"):
        law.radius  # noqa: B018


def test_an_unknown_name_is_refused_with_the_known():
    with pytest.raises(ValueError, match=r"^law: got 'Decay'; known are .*Brickwork, .*MLP"):
        al.laws.build("Decay", {})


def test_what_a_law_must_define_is_said(registry):
    class Half(al.laws.RecurrentLaw):
        pass

    class Odd(al.laws.UnitaryLaw):
        pass

    x = torch.zeros(1, 2, 2, 2)
    for call, name in (
        (lambda: Half(1).initial_hidden(x), r"Half must define initial_hidden\(x\)"),
        (lambda: Odd(1)(x), r"Odd must define evolve\(psi\)"),
        (lambda: Odd(1).inverse(x), r"Odd must define inverse\(psi\)"),
    ):
        with pytest.raises(NotImplementedError, match=name):
            call()
