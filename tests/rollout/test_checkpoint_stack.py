"""The stack of checkpoints: what comes back from each tier, and what stays behind."""

import pytest
import torch

from atheria_lab.memory import track_peak
from atheria_lab.rollout import checkpoints
from atheria_lab.rollout.checkpoints import CheckpointStack
from atheria_lab.rollout.randomness import RandomState

TIERS = ["device", "host", "disk"]
LEAVES = [
    torch.randn(2, 3, dtype=torch.complex64),
    torch.randn(4, dtype=torch.complex128).conj(),
    torch.randn(4, dtype=torch.complex64).conj().imag,
    torch.randn(3, 5).T,
    torch.randn(2, 5)[:, ::2],
    torch.randn(1, 4, 4, 2).to(memory_format=torch.channels_last),
    torch.randn(10)[3:7],
    torch.randn(1, 4).expand(3, 4),
    torch.tensor(2.5, dtype=torch.float64),
    torch.arange(6).reshape(2, 3),
    torch.tensor([True, False]),
    torch.randn(3).bfloat16(),
    torch.empty(0, 2),
]


@pytest.fixture
def now():
    return RandomState.capture([])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("tier", TIERS)
def test_every_kind_of_leaf_comes_back_as_it_was(tier, now, folder):
    stack = CheckpointStack(lambda _: tier)
    stack.push(LEAVES, now)
    leaves, random = stack.top()
    assert random is now
    for leaf, stored in zip(leaves, LEAVES, strict=True):
        assert leaf.dtype == stored.dtype
        assert torch.equal(leaf, stored)
        if stored.stride() == stored.clone().stride():  # without gaps
            assert leaf.stride() == stored.stride()
    stack.clear()


@pytest.mark.parametrize("tier", TIERS)
def test_what_was_stored_last_comes_back_first(tier, now, folder):
    stack = CheckpointStack(lambda _: tier)
    for value in range(3):
        stack.push([torch.full((2,), value)], now)
    for value in reversed(range(3)):
        assert len(stack) == value + 1
        assert stack.top()[0][0].tolist() == [value, value]
        assert stack.top()[0][0].tolist() == [value, value]  # a look takes nothing away
        stack.drop()
    assert len(stack) == 0
    stack.clear()


@pytest.mark.parametrize(("tier", "copies"), [("device", 0), ("host", 1), ("disk", 0)])
def test_only_the_host_tier_holds_a_copy(tier, copies, now, folder):
    leaf = torch.zeros(1000)
    stack = CheckpointStack(lambda _: tier)
    with track_peak() as peak:
        stack.push([leaf], now)
    assert peak.live_bytes == copies * leaf.nbytes
    stack.clear()
    assert peak.live_bytes == 0


def test_a_changed_state_is_refused(now):
    leaf = torch.zeros(3)
    stack = CheckpointStack()
    stack.push([leaf], now)
    leaf += 1
    with pytest.raises(RuntimeError, match="state was changed in place"):
        stack.top()


def test_a_short_file_is_refused(now, folder):
    stack = CheckpointStack(lambda _: "disk")
    stack.push([torch.zeros(100)], now)
    [file] = folder.glob("*/*.bin")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match=r"checkpoint: 0\.bin is shorter"):
        stack.top()
    stack.clear()


def test_a_cleared_stack_serves_again(now, folder):
    stack = CheckpointStack(lambda _: "disk")
    for value in (1.0, 2.0):
        stack.push([torch.tensor(value)], now)
        assert stack.top()[0][0] == value
        stack.clear()
        assert list(folder.iterdir()) == []
