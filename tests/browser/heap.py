"""What a page and a kernel hold after many frames, and after a cell was run many times."""

from __future__ import annotations

from typing import NamedTuple

from jupyterlab_page import Notebook

OPEN = """
import gc, threading, time
import ipywidgets
import atheria_lab as al
from atheria_lab.memory.process import heap_in_use

if "view" in globals():
    view.close(); curves.close()
view, curves = al.widgets.LatticeView(per_second=60), al.widgets.Curves(per_second=4)
series, states = al.Series(500), [al.lattice.random(256, 2, seed=seed) for seed in range(8)]


def show(view=view, curves=curves):
    step = 0
    while view.comm is not None:
        view.show(states[step % 8], step)
        series.add(step, step % 97)
        step % 15 or curves.show({"x": al.widgets.Line(*series.buckets()[:4])})
        step += 1
        time.sleep(1 / 60)


threading.Thread(target=show, daemon=True).start()
display(view, curves)
"""
KERNEL = """
gc.collect()
print(len(ipywidgets.widgets.widget._instances), heap_in_use())
"""


class Held(NamedTuple):
    """Bytes of the page's heap after a collection, widgets in the kernel, bytes of its heap."""

    page: int
    widgets: int
    kernel: int


def held(notebook: Notebook) -> Held:
    """Collect, and look."""
    tools = notebook.page.context.new_cdp_session(notebook.page)
    for _ in range(3):
        tools.send("HeapProfiler.collectGarbage")
    used = int(tools.send("Runtime.getHeapUsage")["usedSize"])
    tools.detach()
    widgets, kernel = notebook.type(KERNEL).split()[:2]
    return Held(used, int(widgets), int(kernel))


def watch(notebook: Notebook, frames: int) -> None:
    """Until the view has drawn so many frames."""
    notebook.page.locator(".atheria-lattice").scroll_into_view_if_needed()
    notebook.page.wait_for_function(
        f"Number(document.querySelector('.atheria-lattice').dataset.frames || 0) >= {frames}",
        timeout=1_800_000,
        polling=500,
    )
