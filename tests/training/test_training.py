"""A trainer as its user knows it: budgets, repeats, guards, and files."""

import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import atheria_lab as al
from atheria_lab.memory import track_peak
from atheria_lab.noise import Noise, Ramp

LAWS = {
    "MLP": lambda: al.laws.MLP(2, 4),
    "Conv": lambda: al.laws.Conv(2, 4),
    "UNet": lambda: al.laws.UNet(2, 2, levels=1),
    "ConvLSTMUNet": lambda: al.laws.ConvLSTMUNet(2, 2, levels=1),
    "Brickwork": lambda: al.laws.Brickwork(2),
}


def make(law="Conv", **settings):
    torch.manual_seed(5)
    law = LAWS[law]() if isinstance(law, str) else law
    return al.Trainer(
        law,
        **{"size": 8, "steps": 12, "budget": "1 MiB", "save_at": al.SaveAt.at_most(3), **settings},
    )


def weights(trainer):
    return torch.cat([p.detach().flatten().double() for p in trainer.law.parameters()])


class Dropping(al.laws.Conv):
    """A law that draws from torch's global generator."""

    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), 0.3)


@pytest.mark.parametrize("law", LAWS)
def test_the_measured_peak_is_the_predicted_one_and_within_the_budget(law):
    trainer = make(law, size=16, steps=40, budget="400 KiB")
    report = trainer.train_episode()
    assert report.peak_bytes <= trainer.budget
    assert report.peak_bytes == pytest.approx(report.predicted_bytes, rel=0.05)
    assert trainer.train_episode().peak_bytes is None


def test_the_flagship_trains_within_64_mib():
    """400 steps of 128x128, d_state 8, hidden 32, loss on 10 states."""
    trainer = al.Trainer(al.laws.MLP(8, 32), 128, 400, "64 MiB", measure="never")
    planned = trainer.plan_rollout()
    assert planned.predicted_bytes <= 64 * 2**20
    assert planned.plan.forward_steps(400) < 3 * 400
    # A tenth of the steps under the same plan holds as many states, and takes a tenth of the time.
    short = al.Trainer(al.laws.MLP(8, 32), 128, 40, plan=planned.plan)
    assert short.train_episode().peak_bytes <= 64 * 2**20


@pytest.mark.parametrize("plan", [al.plans.StoreAll(), al.plans.Segmented(5), al.plans.Binomial(3)])
def test_every_plan_trains_the_same_law(plan):
    noise = Noise(phase=0.2, sign=0.05)
    a, b = make(noise=noise, budget=None), make(noise=noise, budget=None, plan=plan)
    for _ in range(3):
        a.train_episode()
        b.train_episode()
    assert torch.equal(weights(a), weights(b))


@pytest.mark.parametrize("law", LAWS)
def test_a_saved_run_goes_on_as_the_interrupted_one_would_have(law, tmp_path):
    settings = {
        "noise": Ramp(Noise(phase=0.3, sign=0.1), episodes=4),
        "schedule": "cosine",
        "schedule_episodes": 8,
        "lr": 1e-2,
        "batch": 2,
        **({"reset_every": 5} if law == "ConvLSTMUNet" else {}),
    }
    whole, half = make(law, **settings), make(law, **settings)
    whole.train(5, progress=False)
    half.train(2, progress=False)
    half.save(tmp_path / "half.safetensors")
    rest = al.Trainer.load(tmp_path / "half.safetensors")
    rest.train(3, progress=False)
    assert rest.episode == 5
    assert torch.equal(weights(rest), weights(whole))
    assert rest.scheduler.get_last_lr() == whole.scheduler.get_last_lr()


def test_dropout_and_functions_of_ones_own_resume_too(tmp_path):
    def loss(trajectory):
        return trajectory[-1].abs().mean() + 0 * trajectory[0].real.sum()

    whole, half = make(Dropping(2, 4), loss=loss), make(Dropping(2, 4), loss=loss)
    half.law.load_state_dict(whole.law.state_dict())
    whole.train(4, progress=False)
    half.train(2, progress=False)
    half.save(tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="loss"):
        al.Trainer.load(tmp_path / "half.safetensors")
    torch.manual_seed(99)  # the episodes have seeds of their own
    rest = al.Trainer.load(tmp_path / "half.safetensors", loss=loss)
    rest.train(2, progress=False)
    assert torch.equal(weights(rest), weights(whole))


def test_training_leaves_the_global_random_numbers_alone():
    trainer = make(Dropping(2, 4))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    trainer.train_episode()
    assert torch.equal(torch.rand(3), expected)


def test_a_float64_law_is_trained_in_complex128(tmp_path):
    seen = []
    trainer = make(LAWS["Conv"]().double())
    trainer.train_episode(watch=lambda trajectory: seen.append(trajectory[-1].dtype))
    assert seen == [torch.complex128]
    trainer.save(tmp_path / "x.safetensors")
    assert next(al.Trainer.load(tmp_path / "x.safetensors").law.parameters()).dtype == torch.float64


def test_a_loss_that_is_not_finite_leaves_the_law_as_it_was(caplog):
    trainer = make(loss=lambda trajectory: trajectory[-1].real.sum() * float("nan"))
    before = weights(trainer)
    for _ in range(4):
        assert trainer.train_episode().skipped
    with pytest.raises(RuntimeError, match="5 episodes in a row"):
        trainer.train_episode()
    assert torch.equal(weights(trainer), before)
    assert "left as it was" in caplog.text


class Fails(al.laws.Conv):
    """A law that raises at a chosen call."""

    error: type[BaseException] = RuntimeError
    countdown = 10**9

    def forward(self, x):
        self.countdown -= 1
        if self.countdown == 0:
            raise self.error("on purpose")
        return super().forward(x)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [3, 20])  # in the forward, in the backward pass
def test_an_error_leaves_nothing_alive_and_the_trainer_usable(error, call):
    trainer = make(Fails(2, 4), plan=al.plans.Binomial(3), budget=None)
    trainer.train_episode()
    trainer.law.error, trainer.law.countdown = error, call
    with track_peak() as peak:
        with pytest.raises(error, match="on purpose"):
            trainer.train_episode()
        gc.collect()
        assert peak.live_bytes == 0
    assert trainer.episode == 1
    assert not trainer.train_episode().skipped


def test_reports_are_bounded():
    trainer = make(history=3)
    trainer.train(5, progress=False)
    assert [report.episode for report in trainer.reports] == [2, 3, 4]


OUT_OF_MEMORY = """
import resource, warnings, torch
import atheria_lab as al
torch.set_num_threads(1)

def trainer(budget):
    torch.manual_seed(0)
    return al.Trainer(al.laws.Conv(8, 32), 64, 200, budget, measure="never")

def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

free = trainer("20 MiB").train_episode()  # a large one would leave its pages with the allocator
tight = trainer("900 MiB")
assert tight.plan_rollout().plan == al.plans.StoreAll()
tight.job()
resource.setrlimit(resource.RLIMIT_AS, (used() + 100 * 2**20,) * 2)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    report = tight.train_episode()
assert report.plan != al.plans.StoreAll(), report
assert report.loss == free.loss
told = [str(w.message) for w in caught if "Out of memory" in str(w.message)]
assert len(told) == 1, told
print("replanned", report.plan)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_out_of_memory_is_replanned_and_repeated_from_the_same_seed():
    run = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "replanned" in run.stdout


SAVING = """
import sys, torch
import atheria_lab as al
trainer = al.Trainer(al.laws.MLP(2, 512), 4, 2)
trainer.train_episode()
while True:
    trainer.episode += 1
    trainer.save(sys.argv[1])
    print("saved", flush=True)
"""


def test_a_kill_in_the_middle_of_saving_leaves_a_whole_file(tmp_path):
    path = tmp_path / "trainer.safetensors"
    for wait in (0.0, 0.003, 0.011):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVING, str(path)], stdout=subprocess.PIPE, text=True
        )
        with child:
            assert child.stdout.readline() == "saved\n"
            time.sleep(wait)
            os.kill(child.pid, signal.SIGKILL)
        assert al.Trainer.load(path).episode >= 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "trainer.safetensors"
    trainer = make()
    trainer.train_episode()
    trainer.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("place", [4, 40, 200, 400, 700, 1000, -900, -5])
def test_a_flipped_byte_is_refused_by_the_files_name(saved, place, tmp_path):
    path = tmp_path / "flipped.safetensors"
    damaged = bytearray(saved)
    damaged[place] ^= 0x55
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"flipped\.safetensors"):
        al.Trainer.load(path)


@pytest.mark.parametrize("size", [0, 7, 300, -1])
def test_a_file_that_was_cut_is_refused_by_its_name(saved, size, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved[:size])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        al.Trainer.load(path)


def test_a_newer_file_and_a_missing_one_are_refused(saved, tmp_path):
    path = tmp_path / "newer.safetensors"
    path.write_bytes(saved.replace(b'\\"format\\": 1,', b'\\"format\\": 9,'))
    with pytest.raises(ValueError, match="newer version"):
        al.Trainer.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        al.Trainer.load("nowhere")


def test_nothing_half_written_is_left_in_the_folder(tmp_path):
    make().save(tmp_path / "a.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("settings", "error", "name"),
    [
        ({"steps": 0}, ValueError, "steps"),
        ({"size": -8}, ValueError, "size"),
        ({"budget": "12 parsecs"}, ValueError, "budget"),
        ({"budget": "1 KiB"}, al.BudgetError, "smallest"),
        ({"budget": "1 KiB", "plan": al.plans.StoreAll()}, al.BudgetError, "StoreAll"),
        ({"save_at": al.SaveAt.indices([99])}, ValueError, "save_at"),
        ({"loss": "beauty"}, ValueError, "loss"),
        ({"loss": "energy"}, ValueError, "constant"),
        ({"loss": "energy", "norm": "cell"}, ValueError, "constant"),
        ({"loss": 3}, TypeError, "loss"),
        ({"loss": lambda trajectory: 1.0}, TypeError, "loss"),
        ({"loss": lambda trajectory: torch.zeros(())}, ValueError, "does not depend"),
        ({"loss": lambda trajectory: trajectory[0].real}, ValueError, "one real number"),
        ({"lr": -1.0}, ValueError, "lr"),
        ({"batch": 0}, ValueError, "batch"),
        ({"measure": "sometimes"}, ValueError, "measure"),
        ({"schedule": "zigzag"}, ValueError, "schedule"),
        ({"precision": "bfloat16"}, ValueError, "precision"),
        ({"gamma": 2.0}, ValueError, "gamma"),
        ({"law": torch.nn.Conv2d(4, 4, 1)}, ValueError, "d_state"),
        ({"law": torch.nn.Identity()}, ValueError, "law"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, error, name):
    with warnings.catch_warnings(), pytest.raises(error, match=name):
        make(**settings).train_episode()
