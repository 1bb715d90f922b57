"""Data parallel training, in real processes on loopback."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import atheria_lab._native as native_module
import numpy as np
import pytest
import torch
import torch.distributed as dist
from small import small_law
from spawned import environment, free_port, on_ranks

import atheria_lab as al
from atheria_lab import train

EPISODES = 3
WAYS = {
    "MLP": {"noise": al.Noise(phase=0.2, sign=0.1)},
    "Conv": {"norm": "cell", "plan": al.plans.Binomial(2)},
    "ConvLSTMUNet": {"noise": al.Noise(phase=0.2), "loss": "structure"},
    "Brickwork": {"loss": "structure", "schedule": "cosine"},
}
SMALL = ["--size", "8", "--steps", "6", "--keep", "2", "--budget", "1 MiB"]


def trainer_of(name, **changed):
    law = small_law(name, torch.float64, seed=dist.get_rank() if dist.is_initialized() else 0)
    options = {"size": 8, "steps": 5, "lr": 1e-2, "batch": 5, "measure": "never", **WAYS[name]}
    return al.Trainer(law, **{**options, **changed})


def trained(name, **changed):
    """The reports and the weights after some episodes; a law on rank 1 starts elsewhere."""
    trainer = trainer_of(name, **changed)
    reports = trainer.train(EPISODES, progress=False)
    numbers = [[r.loss, r.gradient_norm, *r.metrics.values()] for r in reports]
    return numbers, [p.detach().numpy() for p in trainer.law.parameters()]


def told(work):
    try:
        work()
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def saved_and_loaded(folder):
    """Half of the episodes, a file, and the other half in a trainer that was loaded from it."""
    path = Path(folder) / "half.safetensors"
    trainer = trainer_of("MLP")
    trainer.train(EPISODES - 1, progress=False)
    trainer.save(path)
    again = al.Trainer.load(path)
    again.train(1, progress=False)
    return [p.detach().numpy() for p in again.law.parameters()]


def refusals(folder):
    last = dist.get_rank() == dist.get_world_size() - 1
    own = Path(folder) / f"rank_{dist.get_rank()}.safetensors"
    trainer = trainer_of("MLP")

    def looking_on(state, done):
        if last:
            raise ValueError("seen enough")

    found = {
        "batch": told(lambda: trainer_of("MLP", batch=1)),
        "steps": told(lambda: trainer_of("MLP", steps=6 if last else 5)),
        "noise": told(lambda: trainer_of("MLP", noise=al.Noise(phase=0.1 * last))),
        "config": told(lambda: al.Trainer(al.laws.MLP(2, hidden=3 + last), 8, 5, batch=2)),
        "shapes": told(lambda: al.Trainer(torch.nn.Conv2d(4, 3 + last, 1), 8, 5, batch=2)),
        "native": told(lambda: trainer_of("MLP", backend="native")),
        "initial": told(
            lambda: trainer_of("MLP", initial=lambda seed: al.lattice.random(8, 2)).train_episode()
        ),
        "stopped": told(lambda: trainer.train_episode(on_step=looking_on)),
        "no file": told(lambda: al.Trainer.load(Path(folder) / "nowhere")),
        "no folder": told(lambda: trainer.save(Path(folder) / "nowhere" / "a.safetensors")),
    }
    found["gradients left"] = sum(p.grad is not None for p in trainer.law.parameters())
    if last:
        trainer.episode = 7
    from atheria_lab.training import saving

    saving.save(trainer, own)
    found["other files"] = told(lambda: al.Trainer.load(own))
    return found


def everything(ranks, folder):
    found = {name: trained(name) for name in WAYS}
    if ranks == 2:
        found["fused"] = trained("MLP", noise=None, backend="auto")
        found["saved"] = saved_and_loaded(folder)
        found["refusals"] = refusals(folder)
    return found


@functools.cache
def results(ranks, folder):
    return on_ranks(ranks, everything, ranks, folder)


def found_on(ranks, folder):
    found = results(ranks, folder)
    assert all(isinstance(one, dict) for one in found), found
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", WAYS)
def test_the_numbers_are_those_of_one_process_with_the_whole_batch(name, ranks, folder):
    """Five lattices: no number of ranks has shares of one size."""
    numbers, weights = trained(name)
    for found in found_on(ranks, folder):
        assert np.allclose(found[name][0], numbers, rtol=1e-10, atol=1e-12)
        for got, wanted in zip(found[name][1], weights, strict=True):
            assert np.abs(got - wanted).max() < 1e-10


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_ranks_hold_the_same_bits(ranks, folder):
    first, *others = found_on(ranks, folder)
    for other in others:
        for name in WAYS:
            for mine, theirs in zip(first[name][1], other[name][1], strict=True):
                assert np.array_equal(mine, theirs)


def test_so_it_is_with_the_fused_step(folder):
    _, weights = trained("MLP", noise=None, backend="auto")
    for found in found_on(2, folder):
        for got, wanted in zip(found["fused"][1], weights, strict=True):
            assert np.abs(got - wanted).max() < 1e-10


def test_a_saved_run_goes_on_as_it_would_have(folder):
    _, weights = trained("MLP")
    for found in found_on(2, folder):
        for got, wanted in zip(found["saved"], weights, strict=True):
            assert np.abs(got - wanted).max() < 1e-10


def test_one_process_goes_on_with_what_two_ranks_saved(folder):
    found_on(2, folder)
    trainer = al.Trainer.load(Path(folder) / "half.safetensors")
    trainer.train(1, progress=False)
    for got, wanted in zip(trainer.law.parameters(), trained("MLP")[1], strict=True):
        assert np.abs(got.detach().numpy() - wanted).max() < 1e-10


REFUSED = [
    ("batch", "batch: got 1 for 2 ranks; each takes at least one lattice"),
    ("steps", "steps: rank 1 of 2 has 6, rank 0 has 5"),
    ("noise", "noise: rank 1 of 2 has Noise(phase=0.1"),
    ("config", "config: rank 1 of 2 has {'d_state': 2, 'hidden': 4"),
    ("shapes", "law's weight: rank 1 of 2 has (torch.float32, (4, 4, 1, 1))"),
    ("native", 'backend: got "native" with noise on several ranks'),
    ("initial", "initial: it returned 1 lattices for batch=5"),
    ("stopped", "seen enough"),
    ("no file", "nowhere is not a file"),
    ("other files", "path rank_0.safetensors"),
]


def test_what_cannot_be_is_told_on_every_rank(folder):
    for found in found_on(2, folder):
        for what, words in REFUSED:
            assert words in found["refusals"][what], found["refusals"][what]


def test_an_episode_that_failed_on_another_rank_leaves_no_gradient(folder):
    first, second = (found["refusals"] for found in found_on(2, folder))
    assert first["stopped"].startswith("RuntimeError: rank 1 of 2 failed, so all end: ValueError")
    assert second["stopped"] == "ValueError: seen enough"
    assert first["gradients left"] == second["gradients left"] == 0


def test_torchrun_trains_and_only_rank_0_speaks(tmp_path):
    path = tmp_path / "trainer.safetensors"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), "-m", "atheria_lab.train", *SMALL]
    command += ["--batch", "2", "--episodes", "2", "--save", str(path)]
    done = subprocess.run(
        command, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predicted peak") == done.stdout.count("saved") == 1
    whole = al.Trainer(
        seeded_law(), 8, 6, "1 MiB", al.SaveAt.at_most(2), batch=2, noise=al.Noise(), seed=0
    )
    whole.train(2, progress=False)
    for got, wanted in zip(
        al.Trainer.load(path).law.parameters(), whole.law.parameters(), strict=True
    ):
        assert torch.allclose(got, wanted, atol=1e-6)


def seeded_law():
    torch.manual_seed(0)
    return al.laws.MLP(8)


def started(ranks, arguments):
    """The ranks as torchrun starts them, but with nobody who ends one for another's sake."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", "atheria_lab.train", *arguments],
            env={**os.environ, **environment(rank, ranks, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def test_a_killed_rank_ends_all_and_the_file_goes_on(tmp_path):
    path = tmp_path / "trainer.safetensors"
    arguments = [*SMALL, "--batch", "2", "--save", str(path), "--save-every", "1"]
    children = started(2, [*arguments, "--episodes", "100000"])
    try:
        while not path.exists():
            assert children[1].poll() is None, children[1].communicate()
            time.sleep(0.05)
        children[1].send_signal(signal.SIGKILL)
        _, words = children[0].communicate(timeout=60)
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert children[0].returncode == 1
    assert "atheria-lab: rank 0 of 2: the ranks can no longer talk to each other" in words
    assert f"Resume from {path}, saved after" in words
    done = al.Trainer.load(path).episode
    assert train.main(["--resume", str(path), "--episodes", "2", "--save", str(path)]) == 0
    assert al.Trainer.load(path).episode == done + 2


def test_ranks_with_different_code_are_refused(tmp_path):
    """The package as it is, and a copy in which one line differs."""
    package = Path(al.__file__).parent
    copy = tmp_path / "atheria_lab"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(native_module.__file__, copy)
    with (copy / "laws" / "mlp.py").open("a") as file:
        file.write("# another line\n")
    here = (
        "import runpy, sys\n"
        f"sys.meta_path[:] = [f for f in sys.meta_path if isinstance(f, type)]\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "sys.argv = ['train', *sys.argv[1:]]\n"
        "runpy.run_module('atheria_lab.train', run_name='__main__')\n"
    )
    port = free_port()
    commands = [["-m", "atheria_lab.train", *SMALL], ["-c", here, *SMALL]]
    children = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment(rank, 2, port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]
    try:
        told_on = [child.communicate(timeout=60)[1] for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    for child, words in zip(children, told_on, strict=True):
        assert child.returncode == 2
        assert "atheria-lab: code: rank 1 of 2 has" in words


def test_an_environment_with_holes_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert train.main(SMALL) == 2
    assert "environment: RANK is set, but WORLD_SIZE" in capsys.readouterr().err


def test_without_torchrun_it_is_one_process(capsys):
    assert train.main([*SMALL, "--episodes", "1"]) == 0
    assert "predicted peak" in capsys.readouterr().out
