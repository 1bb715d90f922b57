"""The live view in JupyterLab: frames, keys, the pointer, and a page that goes and comes."""

import re

import pytest
from playwright.sync_api import expect

SETUP = """
import atheria_lab as al
strokes = []
psi = al.lattice.gaussian(64, 3, wave=(3, 2))
view = al.widgets.LatticeView(psi, on_draw=strokes.append)
view
"""


@pytest.fixture(scope="module")
def notebook(lab, open_notebook):
    notebook = open_notebook(lab.write("lattice_view.ipynb", SETUP, "pass"))
    notebook.run_all()
    expect(notebook.page.locator(".atheria-lattice[data-frames]")).to_be_visible()
    return notebook


def colour(page, y=0.5, x=0.5):
    """The colour of the canvas at a fraction of its sides."""
    return page.locator(".atheria-box canvas").evaluate(
        """(canvas, [y, x]) => Array.from(canvas.getContext("2d").getImageData(
            Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data)""",
        [y, x],
    )


def frames(page):
    return int(page.locator(".atheria-lattice").get_attribute("data-frames") or 0)


def test_it_draws_the_state_in_the_browser(notebook):
    page = notebook.page
    assert page.locator(".atheria-box canvas").evaluate("c => [c.width, c.height]") == [64, 64]
    assert sum(colour(page)[:3]) > 600  # the packet's middle is bright
    assert sum(colour(page, 0.02, 0.02)[:3]) < 60  # the corner is dark
    assert notebook.errors() == []


def test_every_view_can_be_chosen_by_keyboard(notebook):
    page = notebook.page
    seen = {tuple(colour(page, 0.45, 0.55))}
    select = page.get_by_label("view", exact=True)
    for _ in range(6):
        before = frames(page)
        select.focus()
        page.keyboard.press("ArrowDown")
        page.wait_for_function(
            f"document.querySelector('.atheria-lattice').dataset.frames > {before}"
        )
        seen.add(tuple(colour(page, 0.45, 0.55)))
    assert len(seen) == 7
    select.select_option("density")


def test_the_pointer_reads_a_cell_and_draws(notebook):
    page = notebook.page
    canvas = page.locator(".atheria-box canvas")
    canvas.hover()
    expect(page.locator(".atheria-readout")).to_contain_text(
        re.compile(r"\(3[12], 3[12]\)\s+density")
    )
    page.get_by_label("pointer").select_option("damage")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 60, steps=5)
    page.mouse.up()
    page.get_by_label("pointer").select_option("look")
    said = notebook.type(
        "print({s.tool for s in strokes}, len({c for s in strokes for c in s.cells}))"
    )
    tools, cells = said.split("} ")
    assert tools == "{'damage'"
    assert int(cells) >= 5


def test_moving_and_zooming_wrap_around_the_torus(notebook):
    page = notebook.page
    canvas = page.locator(".atheria-box canvas")
    middle = colour(page)
    canvas.focus()
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    page.wait_for_timeout(100)
    assert colour(page, 0.0) == middle  # half a lattice further, the middle is at the top
    page.keyboard.press("+")
    assert canvas.evaluate("c => c.style.width") == "125%"
    page.keyboard.press("0")
    page.wait_for_timeout(100)
    assert colour(page) == middle


def test_a_hidden_view_is_sent_nothing_and_comes_back(notebook):
    page = notebook.page
    page.locator(".atheria-lattice").evaluate("e => e.style.display = 'none'")
    page.wait_for_timeout(300)
    before = frames(page)
    notebook.type("for i in range(50): view.show(psi, i, last=True)")
    assert frames(page) == before
    page.locator(".atheria-lattice").evaluate("e => e.style.display = ''")
    expect(page.locator(".atheria-readout")).to_contain_text("step 49")
    assert frames(page) == before + 1
