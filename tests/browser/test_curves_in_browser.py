"""Live curves in JupyterLab: the legend's values, the limit, the pointer, thousands of updates."""

import pytest
from playwright.sync_api import expect

SETUP = """
import numpy as np
from atheria_lab.widgets.curves import Curves, Line

x = np.linspace(0, 400, 401)
sawtooth = 2**20 * (20 + 0.1 * x + 12 * (x % 40) / 40)
lines = {
    "measured": Line(x, sawtooth, 0.9 * sawtooth, 1.05 * sawtooth),
    "predicted": Line.of(x, 1.02 * sawtooth, dashed=True),
}
curves = Curves("memory", unit="bytes", x_label="seconds")
curves.show(lines, {"budget": 2**20 * 64})
stack = Curves("tiers", unit="bytes", x_label="step", stacked=True)
stack.show({name: Line.of(x, 2.0**20 * k * x / 100) for k, name in enumerate("abc", 1)})
loss = Curves("loss", log=True, x_label="episode")
loss.show({"loss": Line.of(x + 1, 30 * np.exp(-x / 80) + 0.05)})
display(curves, stack, loss)
"""


@pytest.fixture(scope="module")
def notebook(lab, open_notebook):
    notebook = open_notebook(lab.write("curves.ipynb", SETUP, "pass"))
    notebook.run_all()
    expect(notebook.page.locator(".atheria-curves[data-frames]").first).to_be_visible()
    return notebook


def test_curves_have_names_and_values_in_their_unit(notebook):
    legends = notebook.page.locator(".atheria-legend")
    expect(legends.nth(0)).to_contain_text("measured60 MiB")
    expect(legends.nth(0)).to_contain_text("predicted61.2 MiB")
    expect(legends.nth(1)).to_contain_text("c12 MiB")  # the part, not the sum below it
    expect(legends.nth(2)).to_contain_text("loss0.2521")
    assert notebook.errors() == []


def test_the_pointer_and_the_arrows_read_values(notebook):
    page = notebook.page
    canvas = page.locator(".atheria-curves canvas").first
    canvas.hover()
    expect(page.locator(".atheria-legend").first).to_contain_text("seconds ")
    page.mouse.move(0, 0)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".atheria-legend").first).to_contain_text("seconds ")
    canvas.blur()
    expect(page.locator(".atheria-legend").first).not_to_contain_text("seconds ")


def test_updates_come_through_and_the_page_keeps_only_the_newest(notebook):
    said = notebook.type(
        "for k in range(1, 301): curves.show({'a': Line.of(x, k * sawtooth / 60)}, last=True)"
    )
    legend = notebook.page.locator(".atheria-legend").first
    legend.scroll_into_view_if_needed()  # out of the window, nothing is sent for
    expect(legend).to_contain_text("a300 MiB")
    assert said == ""
    assert int(notebook.type("print(curves.stream.dropped)")) > 100
