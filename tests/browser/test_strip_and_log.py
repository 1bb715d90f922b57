"""The strip of kept states, the log and the memory curves in JupyterLab."""

import pytest
from playwright.sync_api import expect

SETUP = """
import torch
import atheria_lab as al

picked = []
law = al.laws.Conv(d_state=4, hidden=8)
states, indices = [], list(range(0, 401, 40))
with torch.no_grad(), al.Engine(law, al.lattice.gaussian(64, 4, wave=(2, 1), width=0.05)) as engine:
    for index in indices:
        engine.step(index - engine.steps_done) if index else None
        states.append(engine.psi.clone())
strip = al.widgets.HistoryStrip(on_pick=picked.append)
strip.show(states, indices, 400)
log = al.widgets.EventLog(al.EventLog(5))
for i in range(7):
    log.events.add(f"event <b>{i}</b>", ("info", "warning", "error")[i % 3])
memory = al.widgets.MemoryCurves()
display(strip, log, memory)
"""


@pytest.fixture(scope="module")
def notebook(lab, open_notebook):
    notebook = open_notebook(lab.write("strip.ipynb", SETUP, "pass"))
    notebook.run_all()
    expect(notebook.page.locator(".atheria-strip[data-frames]")).to_be_visible()
    return notebook


def test_thumbnails_are_picked_by_mouse_and_by_arrows(notebook):
    page = notebook.page
    thumbnails = page.locator(".atheria-strip-row button")
    expect(thumbnails).to_have_count(11)
    thumbnails.nth(3).click()
    expect(thumbnails.nth(3)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowRight")
    expect(thumbnails.nth(4)).to_have_attribute("aria-selected", "true")
    assert notebook.type("print(picked)").strip() == "[120, 160]"


def test_the_log_shows_text_as_text(notebook):
    lines = notebook.page.locator(".atheria-log-lines > div")
    expect(lines).to_have_count(5)
    expect(lines.last).to_contain_text("event <b>6</b>")
    expect(notebook.page.locator(".atheria-log-title")).to_contain_text("2 older ones dropped")


def test_memory_curves_move(notebook):
    page = notebook.page
    curves = page.locator(".atheria-curves")
    curves.scroll_into_view_if_needed()
    expect(page.locator(".atheria-legend")).to_contain_text("resident")
    before = int(curves.get_attribute("data-frames"))
    page.wait_for_function(
        f"document.querySelector('.atheria-curves').dataset.frames > {before + 2}"
    )
    assert notebook.type("memory.close(); print(memory.monitor.running)").strip() == "False"
    assert notebook.errors() == []
