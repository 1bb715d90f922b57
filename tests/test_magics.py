"""%memory and %%budget, in a real IPython."""

import gc

import pytest
import torch

import atheria_lab as al

pytest.importorskip("IPython")


@pytest.fixture
def shell():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.extension_manager.load_extension("atheria_lab")
    yield shell
    shell.history_manager.enabled = False
    shell.reset(new_session=False)


def test_memory_shows_the_owners(shell, capsys):
    held = torch.zeros(1000)
    al.memory.claim("test of the magics", held)
    owned = shell.run_line_magic("memory", "")
    assert owned["test of the magics"] == 4000
    assert "in use, limit" in capsys.readouterr().out
    del held
    gc.collect()
    assert shell.run_line_magic("memory", "diff")["test of the magics"] == -4000


def test_budget_caps_a_cell_and_reports_its_peak(shell, capsys):
    shell.user_ns["torch"] = torch
    shell.run_cell_magic(
        "budget", "8 KiB", "kept = torch.zeros(512)\ntorch.zeros(1024)[0]"
    )  # Out keeps it
    out = capsys.readouterr().out
    assert "peak 6.0 KiB of 8 KiB, 6.0 KiB left" in out
    shell.run_cell_magic("budget", "8 KiB", "torch.zeros(4096)")
    assert "The cell was ended by its budget." in capsys.readouterr().out


def test_help_and_what_is_wrong(shell, capsys):
    assert shell.run_line_magic("memory", "--help") is None
    assert "usage: %memory" in capsys.readouterr().out
    shell.run_cell_magic("budget", "--help", "1")
    assert "usage: %%budget" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"%memory: argument what: invalid choice"):
        shell.run_line_magic("memory", "cows")
    with pytest.raises(ValueError, match="budget: got"):
        shell.run_cell_magic("budget", "many cows", "1")
