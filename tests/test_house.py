"""The house itself: what it needs, and what it drags in."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
# conda-forge's names, where they differ from PyPI's; and what only one of the two needs.
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
CONDA_ONLY = {"python", "pip", "cxx-compiler", "make"}
PIP_ONLY = {"triton"}  # a PyTorch with CUDA brings it


def split(requirement: str) -> tuple[str, str]:
    name, version = re.fullmatch(r"([\w.-]+)(.*)", requirement.replace(" ", "")).groups()
    return name.lower(), version


def test_environment_yml_and_pyproject_ask_for_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = dict(map(split, project["build-system"]["requires"]))
    groups = project["project"]["optional-dependencies"].values()
    for requirement in [*project["project"]["dependencies"], *(r for g in groups for r in g)]:
        if not requirement.startswith("atheria-lab["):
            wanted.update([split(requirement)])
    wanted = {
        CONDA_NAMES.get(name, name): version
        for name, version in wanted.items()
        if name not in PIP_ONLY
    }

    given = {}
    for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]:
        for requirement in entry["pip"] if isinstance(entry, dict) else [entry]:
            given.update([split(requirement)])
    assert given.pop("python") == project["project"]["requires-python"]
    assert {name: version for name, version in given.items() if name not in CONDA_ONLY} == wanted


def test_importing_the_package_imports_neither_jupyter_nor_matplotlib_nor_dask():
    code = (
        "import sys, atheria_lab\n"
        "heavy = {'ipywidgets', 'anywidget', 'matplotlib', 'IPython', 'jupyterlab',\n"
        "         'safetensors', 'dask', 'distributed'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    import atheria_lab as al

    for name in al.__all__:
        assert getattr(al, name) is not None


def test_no_two_test_files_share_a_name():
    """pytest imports them by their name alone: a second one would not be collected."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
