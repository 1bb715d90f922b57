"""Limits that act, also against the kernel's own in a child process."""

import subprocess
import sys

import pytest

import atheria_lab as al
from atheria_lab.memory import LimitError, Limits

MIB = 2**20


class Store:
    """Frees what it is asked for, as long as it has something."""

    def __init__(self, held, limits):
        self.held, self.limits, self.asked = held, limits, []

    def spill(self, wanted):
        self.asked.append(wanted)
        freed = min(wanted, self.held)
        self.held -= freed
        return freed


@pytest.fixture
def limits(monkeypatch):
    """100 bytes in use, soft 200, hard 300."""
    limits = Limits(soft=200, hard=300)
    monkeypatch.setattr(limits, "used", lambda: 100)
    return limits


def test_room_and_comfort(limits):
    assert (limits.room(), limits.comfort()) == (200, 100)
    assert limits.make_room(100)
    assert not limits.make_room(101)
    limits.check(200, "it", "no advice")
    with pytest.raises(LimitError, match=r"it would add 201 B, and 200 B are left .*Do less") as no:
        limits.check(201, "it", "Do less.")
    assert (no.value.needed_bytes, no.value.room_bytes) == (201, 200)


def test_who_can_free_something_is_asked_until_it_is_enough(limits):
    first, second, third = (Store(held, limits) for held in (30, 100, 100))
    for store in (first, second, third):
        limits.on_pressure(store.spill)
    assert limits.relieve(50) == 50
    assert (first.asked, second.asked, third.asked) == ([50], [20], [])
    del first
    limits.make_room(100)  # not short of anything
    assert second.asked == [20]
    limits.make_room(110)
    assert second.asked == [20, 10]


def test_what_others_freed_counts(monkeypatch):
    limits, used = Limits(hard=300), [250]
    monkeypatch.setattr(limits, "used", lambda: used[0])

    def spill(wanted):
        used[0] -= wanted
        return wanted

    with pytest.raises(LimitError):
        limits.check(100, "it", "")
    limits.on_pressure(spill)
    limits.check(100, "it", "")
    assert used == [200]


@pytest.mark.parametrize(("soft", "hard"), [(0, None), ("5 cows", None), (3, 2)])
def test_bad_limits_are_refused(soft, hard):
    with pytest.raises(ValueError, match="soft: got"):
        Limits(soft, hard)


def trainer(**options):
    return al.Trainer(al.laws.MLP(2, hidden=4), 16, 60, save_at=al.SaveAt.at_most(3), **options)


def test_past_the_soft_limit_a_smaller_plan_is_taken_with_the_same_gradient(monkeypatch):
    limits = Limits(soft="2 GiB")
    one, two = trainer(), trainer(limits=limits)
    two.law.load_state_dict(one.law.state_dict())
    everything = one.train_episode()
    monkeypatch.setattr(limits, "used", lambda: limits.soft - everything.predicted_bytes // 3)
    report = two.train_episode()
    assert everything.plan == al.plans.StoreAll()
    assert report.predicted_bytes <= everything.predicted_bytes // 3
    assert report.loss == everything.loss
    assert report.gradient_norm == everything.gradient_norm


def test_past_the_hard_limit_nothing_runs(monkeypatch):
    limits = Limits(hard="2 GiB")
    monkeypatch.setattr(limits, "used", lambda: limits.hard - 10_000)
    tight = trainer(limits=limits)
    with pytest.raises(LimitError, match=r"an episode of 60 steps with .*%memory says who"):
        tight.train_episode()
    assert tight.episode == 0


CHILD = """
import resource, torch, warnings
warnings.simplefilter("error")  # no failed try, no second one
import atheria_lab as al
from atheria_lab.memory import process

torch.set_num_threads(1)
law = al.laws.MLP(8, hidden=32)
al.Trainer(law, 64, 3).train_episode()  # all libraries are there
most = process.virtual("{field}") + 200 * 2**20
resource.setrlimit(resource.{kind}, (most, most))
limits = al.memory.Limits()
assert 32 * 2**20 < limits.room() <= 200 * 2**20, limits.room()
trainer = al.Trainer(law, 64, 300, limits=limits, measure="never")
report = trainer.train_episode()
assert report.plan != al.plans.StoreAll(), report.plan
tight = al.memory.Limits(hard=limits.used() + 2**20)
try:
    al.Trainer(law, 64, 300, limits=tight).train_episode()
except al.memory.LimitError as error:
    print("refused:", error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
@pytest.mark.parametrize(("kind", "field"), [("RLIMIT_DATA", "VmData"), ("RLIMIT_AS", "VmSize")])
def test_a_run_stays_within_a_real_limit_of_the_kernel(kind, field):
    """300 steps with plain autograd want 480 MiB; 200 are allowed."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(kind=kind, field=field)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith("refused: limits: an episode of 300 steps")
