"""Frames and re-runs leave the page's heap and the kernel's as they were."""

from heap import OPEN, held, watch

MIB = 2**20


def test_frames_and_runs_leave_nothing_behind(lab, open_notebook):
    notebook = open_notebook(lab.write("heap.ipynb", OPEN, "pass"))
    notebook.run_all()
    watch(notebook, 300)
    first = held(notebook)
    watch(notebook, 2000)
    after = held(notebook)
    assert after.page - first.page < 5 * MIB
    assert after.widgets == first.widgets
    assert after.kernel - first.kernel < 5 * MIB
    for _ in range(3):
        notebook.run_first()
    warm = held(notebook)
    for _ in range(20):
        notebook.run_first()
    last = held(notebook)
    assert last.widgets == warm.widgets == first.widgets
    assert last.page - warm.page < 5 * MIB
    assert last.kernel - warm.kernel < 5 * MIB
    watch(notebook, 30)
    notebook.type("view.close(); curves.close()")
    assert notebook.errors() == []
