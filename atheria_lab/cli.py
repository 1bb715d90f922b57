"""The command line: ``atheria-lab doctor``, ``train``, ``sweep``, ``timeline``, ``lab``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

import atheria_lab as al
from atheria_lab import native
from atheria_lab._checks import integer
from atheria_lab.lattice import NORMS
from atheria_lab.laws.base import Law
from atheria_lab.memory import format_size, memory_limits
from atheria_lab.training import LOSSES

_LAWS: dict[str, Callable[..., Law]] = {
    law.__name__: law
    for law in (al.laws.MLP, al.laws.Conv, al.laws.UNet, al.laws.ConvLSTMUNet, al.laws.Brickwork)
}
_WIDGETS = ("jupyterlab", "ipykernel", "ipywidgets", "anywidget", "matplotlib")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 2 where the arguments make no sense."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"atheria-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("atheria-lab: interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atheria-lab",
        description="Train learned lattice laws within a memory budget, with the exact gradient.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    doctor = commands.add_parser("doctor", help="say what is here: torch, devices, memory, kernels")
    doctor.set_defaults(run=_doctor)

    lab = commands.add_parser("lab", help="open JupyterLab on a notebook")
    lab.add_argument("notebook", nargs="?", default="notebooks/05_workbench.ipynb", type=Path)
    lab.set_defaults(run=_lab)

    train = commands.add_parser(
        "train",
        help="train a law within a memory budget",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _training_options(train)
    add = train.add_argument
    add("--episodes", type=int, default=5, help="how many to train")
    add("--save", type=Path, default=None, help="write the trainer here at the end")
    add("--save-every", type=int, default=None, help="and each time so many episodes are done")
    add("--resume", type=Path, default=None, help="go on with a saved trainer, as it was set")
    train.set_defaults(run=_train)

    sweep = commands.add_parser(
        "sweep",
        help="train every point of a space, on this machine or on a Dask cluster",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = sweep.add_argument
    add("space", type=Path, help="a JSON file: names with lists of values, as al.sweep takes them")
    add("--directory", type=Path, default=Path("sweep"), help="where results are stored")
    add("--scheduler", default=None, help="such as tcp://scheduler:8786; none: this machine")
    add("--keep", choices=("results", "trainers"), default="results", help="trained laws, too")
    sweep.set_defaults(run=_sweep)

    timeline = commands.add_parser(
        "timeline",
        help="draw what an episode does to the memory: predicted over measured",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    timeline.add_argument("path", type=Path, help="of a .png, .svg or .json file")
    _training_options(timeline)
    timeline.set_defaults(run=_timeline)
    return parser


def _training_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--law", choices=_LAWS, default="MLP", help="the law")
    add("--d-state", type=int, default=8, help="complex amplitudes in a cell")
    add("--hidden", type=int, default=None, help="width of the law; its own default if left out")
    add("--size", type=int, default=128, help="cells along each side")
    add("--steps", type=int, default=400, help="steps of a rollout")
    add("--batch", type=int, default=1, help="lattices at once, on all ranks together")
    add("--budget", default="64 MiB", help="bytes that an episode may add at its peak")
    add("--keep", type=int, default=10, help="states of each rollout that the loss sees")
    add("--loss", choices=LOSSES, default="evolutionary", help="what the rollouts are rated by")
    add("--gamma", type=float, default=0.01, help="part of psi that decays in a step")
    add("--norm", choices=NORMS, default=None, help='"lattice"; "none" for a unitary law')
    add("--phase-noise", type=float, default=0.0, help="radians, after each step")
    add("--sign-noise", type=float, default=0.0, help="probability of a flip, after each step")
    add("--lr", type=float, default=1e-4, help="learning rate of AdamW")
    add("--seed", type=int, default=0, help="of everything random")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def _train(options: argparse.Namespace) -> int:
    if options.save is not None:  # before hours of training, not after them
        if not options.save.parent.is_dir() or options.save.is_dir():
            raise ValueError(
                f"--save: got {options.save}; it takes a file in a folder that is there."
            )
        if find_spec("safetensors") is None:
            raise ImportError("--save: safetensors is missing: pip install 'atheria-lab[train]'.")
    if options.save_every is not None:
        integer("--save-every", options.save_every)
        if options.save is None:
            raise ValueError("--save-every: got it without --save, which says where to.")
    if options.resume is not None:
        _refuse_other_settings(options)
        trainer = al.Trainer.load(options.resume, device=options.device)
    else:
        trainer = _trainer(options)
        print(trainer.plan_rollout())
    try:
        reports = trainer.train(options.episodes, on_episode=partial(_keep, trainer, options))
    except KeyboardInterrupt:
        _save(trainer, options.save)  # as it was after its last whole episode
        raise
    measured = next((report for report in reports if report.peak_bytes is not None), None)
    print()
    for name, value in reports[-1].rows():
        if name == "measured peak" and measured is not None:
            value = f"{format_size(measured.peak_bytes or 0)} (episode {measured.episode})"
        print(f"{name:>16}  {value}")
    _save(trainer, options.save)
    return 0


def _refuse_other_settings(options: argparse.Namespace) -> None:
    usual = argparse.ArgumentParser()
    _training_options(usual)
    for name, value in vars(usual.parse_args([])).items():
        if name != "device" and getattr(options, name) != value:
            raise ValueError(
                f"--{name.replace('_', '-')}: got {getattr(options, name)}; a resumed trainer has "
                "its own settings. Leave it out, or train a new one."
            )


def _sweep(options: argparse.Namespace) -> int:
    try:
        space = json.loads(options.space.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"space: {options.space} is no JSON: {error}.") from error
    results = al.sweep(space, options.scheduler, directory=options.directory, keep=options.keep)
    for result in results:
        print(result)
    return 1 if results.errors else 0


def _timeline(options: argparse.Namespace) -> int:
    suffix = options.path.suffix
    if suffix not in (".png", ".svg", ".json"):
        raise ValueError(f"path: got {options.path}; it takes a .png, .svg or .json file.")
    timeline = _trainer(options).timeline()
    if suffix == ".json":
        timeline.save(options.path)
    else:
        from atheria_lab.widgets.memory_pictures import timeline_figure

        timeline_figure([timeline]).savefig(options.path, dpi=130)
    print(timeline)
    return 0


def _trainer(options: argparse.Namespace) -> al.Trainer:
    return al.Trainer(
        _law(options),
        size=options.size,
        steps=options.steps,
        budget=options.budget,
        save_at=al.SaveAt.at_most(options.keep),
        loss=options.loss,
        noise=al.Noise(phase=options.phase_noise, sign=options.sign_noise),
        lr=options.lr,
        seed=options.seed,
        batch=options.batch,
        gamma=options.gamma,
        norm=options.norm,
        device=options.device,
    )


def _save(trainer: al.Trainer, path: Path | None) -> None:
    if path is not None:
        trainer.save(path)
        print(f"{'saved':>16}  {path} (after {trainer.episode} episodes)")


def _keep(trainer: al.Trainer, options: argparse.Namespace, report: al.EpisodeReport) -> None:
    if options.save_every is not None and trainer.episode % options.save_every == 0:
        trainer.save(options.save)


def _law(options: argparse.Namespace) -> Law:
    torch.manual_seed(options.seed)
    if options.hidden is None:
        return _LAWS[options.law](options.d_state)
    if options.law == "Brickwork":
        raise ValueError("--hidden: Brickwork has no hidden channels; leave it out.")
    return _LAWS[options.law](options.d_state, hidden=options.hidden)


def _doctor(_: argparse.Namespace) -> int:
    rows = [
        ("atheria_lab", al.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("kernels", f"compiled, {native.isa()}"),
    ]
    if torch.cuda.is_available():
        rows += [
            ("device", f"cuda:{index} {torch.cuda.get_device_name(index)}")
            for index in range(torch.cuda.device_count())
        ]
    else:
        rows.append(("device", "cpu (no CUDA device)"))
    for limit in memory_limits():
        used = "use unknown" if limit.used is None else f"{format_size(limit.used)} used"
        rows.append(("memory", f"{limit.name}: {format_size(limit.bytes)}, {used}"))
    rows += [("widgets", f"{name} {_version(name)}") for name in _WIDGETS]
    for name, value in rows:
        print(f"{name:>12}  {value}")
    return 0


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "is missing: pip install 'atheria-lab[lab]'"


def _lab(options: argparse.Namespace) -> int:
    if not options.notebook.exists():
        raise FileNotFoundError(f"notebook: {options.notebook} does not exist.")
    command = [sys.executable, "-m", "jupyter", "lab", str(options.notebook)]
    shown = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if not shown:
        command.append("--no-browser")  # JupyterLab then prints its address
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
