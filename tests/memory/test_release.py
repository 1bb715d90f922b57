"""release() and holders(): what is given back, and who holds the rest, in words."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import weakref

import pytest
import torch

import atheria_lab as al
from atheria_lab.memory.release import TRACEBACKS, UNREACHABLE

BIG = 3_000_000  # numbers: larger than anything else a test holds
_module_variable = None


def words(nbytes=4 * BIG):
    return next(h.held_by for h in al.memory.holders(3) if h.nbytes == nbytes)


class Holder:
    pass


class Slotted:
    __slots__ = ("inside",)


def test_a_local_variable_and_the_way_from_it():
    box = Holder()
    box.model = torch.nn.Linear(1, 1)
    box.model.register_buffer("table", torch.zeros(BIG))
    told = words()[0]
    assert told.startswith("the local variable box.model")
    assert "table" in told and "test_a_local_variable" in told


def test_lists_slots_tuples_and_dicts():
    slotted = Slotted()
    slotted.inside = [0, {"psi": (1, torch.zeros(BIG))}]
    assert words()[0].startswith("the local variable slotted.inside[1]['psi'][1] of ")


def test_a_named_tuple_by_its_fields():
    state = al.LatticeState(torch.zeros(BIG))
    assert words()[0].startswith("the local variable state.psi of ") and state


def test_a_variable_of_a_module():
    global _module_variable
    _module_variable = {"kept": torch.zeros(BIG)}
    try:
        assert words() == (f"{__name__}._module_variable['kept']",)
    finally:
        _module_variable = None


def test_what_no_variable_holds():
    box = Holder()
    box.inside = torch.zeros(BIG)
    stack = iter([box])  # an iterator is no variable's path that can be written
    del box
    assert any("inside" in each for each in words()) and stack


def test_a_closure():
    def make():
        inner = torch.zeros(BIG)
        return lambda: inner

    keep = [make()]
    assert "closure of test_a_closure.<locals>.make.<locals>.<lambda>" in words()[0]
    assert keep


def test_what_only_numpy_sees():
    array = torch.zeros(BIG).numpy()
    assert words() == ("nothing that Python can see: a numpy view, or a graph of autograd",)
    assert array.size == BIG


def test_views_count_once_with_their_storage():
    whole = torch.zeros(BIG)
    views = [whole[i] for i in range(5)]
    held = [h for h in al.memory.holders(3) if h.nbytes == 4 * BIG]
    assert len(held) == 1 and held[0].shape == (BIG,) and views


def fail():
    inside = torch.zeros(BIG)
    raise LookupError(f"with {inside.numel()}")


def test_a_traceback_is_named_and_then_released():
    try:
        fail()
    except LookupError as error:
        kept = error
    tensor = weakref.ref(kept.__traceback__.tb_next.tb_frame.f_locals["inside"])
    told = words()
    assert any("inside of fail()" in each and "kept by a traceback" in each for each in told)
    sys.last_exc = sys.last_value = kept
    sys.last_traceback = kept.__traceback__
    released = al.memory.release()
    assert released.freed[TRACEBACKS] == 4 * BIG and tensor() is None
    assert not hasattr(sys, "last_exc") and not hasattr(sys, "last_traceback")
    assert "last traceback" in repr(released) and "<table>" in released._repr_html_()


def test_causes_are_released_too():
    with contextlib.suppress(RuntimeError):
        try:
            fail()
        except LookupError as error:
            tensor = weakref.ref(error.__traceback__.tb_next.tb_frame.f_locals["inside"])
            try:
                raise RuntimeError("above") from error
            except RuntimeError as outer:
                sys.last_exc = outer
                raise
    al.memory.release()
    assert tensor() is None


def test_engines_in_a_cycle_are_collected():
    engine = al.Engine(al.laws.MLP(2), al.lattice.random(64, 2), backend="torch")
    ring = [engine]
    ring.append(ring)
    gc.disable()  # or Python may come first
    try:
        del engine, ring
        assert al.memory.release().freed[UNREACHABLE] >= 64 * 64 * 2 * 8
    finally:
        gc.enable()


def test_your_variables_stay():
    mine = torch.arange(BIG)
    released = al.memory.release(1)
    assert mine[-1] == BIG - 1 and len(released.held) == 1
    assert released.held[0].held_by[0].startswith("the local variable mine of ")


def test_looking_keeps_nothing_alive():
    gc.disable()
    try:
        tensor = torch.zeros(BIG)
        gone = weakref.ref(tensor)
        al.memory.holders(1)
        del tensor
        # Python <= 3.12 copies a running function's variables when they are looked at.
        sys._getframe().f_locals.clear()
        assert gone() is None
    finally:
        gc.enable()


def test_refusals_and_escapes():
    with pytest.raises(ValueError, match="n: got 0"):
        al.memory.release(0)
    odd = {"<b>": torch.zeros(BIG)}
    page = al.memory.holders(1)._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page and odd


SHELL = """
import sys, weakref
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
shell = InteractiveShell.instance()
def run(code):
    with capture_output() as out:
        result = shell.run_cell(code, store_history=True)
    return result, out.stdout
run("import torch, atheria_lab as al")
before = set(shell.magics_manager.magics["line"])
assert run("%load_ext atheria_lab")[0].success
added = set(shell.magics_manager.magics["line"]) - before
assert {"memory", "release"} <= added, added

# An output, a traceback with a tensor in it, and a variable.
run("torch.zeros(3_000_000)")
output = weakref.ref(shell.user_ns["_"])
run('''
def fail():
    inside = torch.zeros(2_000_000)
    raise LookupError("no")
''')
run("fail()")
inside = weakref.ref(sys.last_traceback.tb_next.tb_next.tb_frame.f_locals["inside"]
                     if sys.last_traceback.tb_next.tb_next else
                     sys.last_traceback.tb_next.tb_frame.f_locals["inside"])
assert output() is not None and inside() is not None
run("mine = {'psi': torch.zeros(1_000_000)}")

text = run("%memory holders -n 3")[1]
assert "Out[" in text and "inside of fail()" in text, text
assert "the variable mine['psi']" in text and "limit" in text, text
result, text = run("%release -n 1")
assert result.success, text
assert output() is None, "Out[] still holds it"
assert inside() is None, "the traceback still holds it"
assert "11.4 MiB  Out[] and _" in text and "7.6 MiB  last traceback" in text, text
assert "the variable mine['psi']" in text, text
assert shell.user_ns["mine"]["psi"].numel() == 1_000_000

# Out[] goes on as ever.
assert "42" in run("6 * 7")[1] and run("_ + 1")[1].strip().endswith("43")
for name in ("memory", "release"):
    for flag in ("--help", "-h"):
        result, text = run(f"%{name} {flag}")
        assert result.success and f"usage: %{name} [-h] [-n N]" in text, text
result, text = run("%memory --nonsense")
assert "unrecognized arguments" in text or not result.success
run("%unload_ext atheria_lab")
assert not added & set(shell.magics_manager.magics["line"])
print("fine")
"""


def test_in_a_real_ipython_shell(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", SHELL],
        capture_output=True,
        text=True,
        env={
            "IPYTHONDIR": str(tmp_path),
            "PATH": "",
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert child.stdout.endswith("fine\n"), child.stdout + child.stderr
