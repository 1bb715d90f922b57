"""The command line, run as a user runs it."""

import signal
import subprocess
import sys

import pytest

import atheria_lab as al
from atheria_lab.cli import main

SMALL = ["train", "--size", "8", "--steps", "6", "--keep", "2", "--budget", "1 MiB"]


def test_doctor_names_what_is_here(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "kernels", "memory", "machine", "jupyterlab"):
        assert word in out


def test_train_prints_the_plans_and_a_report(capsys):
    assert main([*SMALL, "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "StoreAll()" in out
    assert "predicted peak" in out
    assert "measured peak" in out


def test_train_saves_and_resumes(tmp_path, capsys):
    path = tmp_path / "trainer.safetensors"
    assert main([*SMALL, "--episodes", "1", "--save", str(path)]) == 0
    assert main(["train", "--resume", str(path), "--episodes", "2", "--save", str(path)]) == 0
    assert al.Trainer.load(path).episode == 3


@pytest.mark.parametrize("law", ["MLP", "Conv", "UNet", "ConvLSTMUNet", "Brickwork"])
def test_every_law_trains(law, capsys):
    assert main([*SMALL, "--law", law, "--episodes", "1", "--budget", "8 MiB"]) == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--budget", "12 parsecs"], "budget"),
        (["--budget", "1 KiB"], "smallest"),
        (["--size", "0"], "size"),
        (["--steps", "-3"], "steps"),
        (["--law", "Brickwork", "--hidden", "4"], "hidden"),
        (["--law", "UNet", "--size", "7"], "multiples"),
        (["--resume", "nowhere.safetensors"], "--size: got 8; a resumed trainer has its own"),
        (["--save", "nowhere/trainer.safetensors"], "--save: got nowhere"),
        (["--save", "."], "--save: got ."),
        (["--save-every", "2"], "--save-every: got it without --save"),
        (["--batch", "0"], "batch: got 0"),
        (["--device", "tpu"], "device: got 'tpu'"),
        (["--device", "cuda:99"], "device: got 'cuda:99'"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, word, capsys):
    """And before anything is trained."""
    assert main([*SMALL, *arguments]) == 2
    told = capsys.readouterr()
    assert word in told.err
    assert "loss" not in told.out


def test_a_space_that_makes_no_sense_is_refused_in_words(tmp_path, capsys):
    space = tmp_path / "space.json"
    for text, word in (("{", "is no JSON"), ('{"law": []}', "'law' is empty")):
        space.write_text(text)
        assert main(["sweep", str(space), "--directory", str(tmp_path / "results")]) == 2
        assert word in capsys.readouterr().err
    assert main(["sweep", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err


def test_a_resumed_file_that_is_not_there_is_named(capsys):
    assert main(["train", "--resume", "nowhere.safetensors"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_an_interrupted_training_is_saved(tmp_path):
    path = tmp_path / "trainer.safetensors"
    command = [sys.executable, "-m", "atheria_lab.cli", *SMALL, "--episodes", "1000000"]
    with subprocess.Popen(
        [*command, "--save", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        shown = b""
        while b"loss" not in shown:  # the bar of the first episodes
            shown += child.stderr.read1(100)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert child.returncode == 130
    assert err.endswith(b"atheria-lab: interrupted\n")
    assert b"saved" in out
    assert al.Trainer.load(path).episode >= 1


def test_lab_refuses_a_notebook_that_is_not_there(capsys):
    assert main(["lab", "nowhere.ipynb"]) == 2
    assert "nowhere.ipynb" in capsys.readouterr().err
