"""The workbench in JupyterLab, as a person uses it: keys, mouse, and the cell run again."""

import pytest
from playwright.sync_api import expect

OPEN = """
import atheria_lab as al
bench = al.widgets.Workbench(size=32, steps=50)
bench
"""
SLIDERS = ("hidden", "size", "d_state", "gamma", "noise", "steps", "learning rate", "snapshots at",
           "budget", "kept states", "snapshots", "host budget", "log entries")  # fmt: skip


@pytest.fixture(scope="module")
def notebook(lab, open_notebook):
    notebook = open_notebook(lab.write("workbench.ipynb", OPEN, "pass"))
    notebook.run_all(120)
    ready(notebook)
    return notebook


def ready(notebook):
    expect(notebook.page.locator(".atheria-run-status")).to_contain_text("ready", timeout=30_000)
    frames(notebook.page)
    settled(notebook)


def settled(notebook):
    assert "True" in notebook.type("print(bench.wait(60))")


def slider(page, name):
    label = page.locator(".widget-label").get_by_text(name, exact=True)
    return page.locator(".widget-hslider").filter(has=label).locator(".noUi-handle")


def press(page, action):
    page.locator(f".atheria-run [data-action={action}]").click()


def frames(page):
    """The pictures that the lattice has drawn; it draws while it is in sight."""
    page.locator(".atheria-lattice").first.scroll_into_view_if_needed()
    return int(page.locator(".atheria-lattice[data-frames]").first.get_attribute("data-frames"))


@pytest.mark.parametrize("name", SLIDERS)
def test_a_slider_moved_by_keyboard_changes_what_it_costs_or_shows(notebook, name):
    page = notebook.page
    before = notebook.type("print(bench.session.wanted, bench.costs.value)")
    slider(page, name).focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(400)
    settled(notebook)
    after = notebook.type("print(bench.session.wanted, bench.costs.value)")
    assert after != before
    slider(page, name).focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(400)
    settled(notebook)
    assert notebook.errors() == []


def test_training_moves_every_curve_and_pauses_and_stops(notebook):
    page = notebook.page
    press(page, "train")
    expect(page.locator(".atheria-run-status")).to_contain_text("training")
    expect(page.locator(".atheria-run-status")).to_contain_text("loss", timeout=60_000)
    # What is out of sight draws nothing, and catches up when it is looked at.
    page.locator(".atheria-strip").scroll_into_view_if_needed()
    expect(page.locator(".atheria-strip-row button").first).to_be_visible(timeout=30_000)
    page.locator(".atheria-log").scroll_into_view_if_needed()
    for legend in ("loss", "resident", "active fraction"):
        expect(page.locator(".atheria-legend").get_by_text(legend).first).to_be_visible()
    expect(page.locator(".atheria-log-lines").first).to_contain_text("episode 0: loss")
    seen = frames(page)
    page.wait_for_function(
        f"document.querySelector('.atheria-lattice').dataset.frames > {seen + 10}"
    )
    press(page, "pause")
    expect(page.locator(".atheria-run-status")).to_contain_text("paused")
    press(page, "pause")
    expect(page.locator(".atheria-run-status")).to_contain_text("training")
    press(page, "stop")
    expect(page.locator(".atheria-run-status")).to_contain_text("ready")
    page.locator(".atheria-log").scroll_into_view_if_needed()
    expect(page.locator(".atheria-log-lines").first).to_contain_text("train stopped after")


def test_the_keys_work_wherever_in_the_bench_the_focus_is(notebook):
    page, status = notebook.page, notebook.page.locator(".atheria-run-status")
    page.locator(".atheria-workbench").focus()
    page.keyboard.press("r")
    expect(status).to_contain_text("running")
    page.keyboard.press("Space")
    expect(status).to_contain_text("paused")
    page.wait_for_timeout(500)
    before = status.inner_text()
    page.keyboard.press("ArrowRight")
    expect(status).not_to_have_text(before)
    page.keyboard.press("Escape")
    expect(status).to_contain_text("ready")


def test_damage_by_mouse_empties_cells_and_a_step_heals_them(notebook):
    page = notebook.page
    press(page, "reset")
    settled(notebook)
    page.locator(".atheria-lattice").first.get_by_label("pointer").select_option("damage")
    canvas = page.locator(".atheria-lattice canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 8, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    empty = "print(int((bench.session._bench.engine.psi.abs().sum(-1) == 0).sum()))"
    page.wait_for_timeout(300)
    settled(notebook)
    assert int(notebook.type(empty)) > 4
    press(page, "step")
    for _ in range(3):
        press(page, "step")
    settled(notebook)
    assert int(notebook.type(empty)) == 0


def test_run_again_the_cell_replaces_the_bench_and_leaves_no_widget(notebook):
    count = "from ipywidgets.widgets.widget import _instances; print(len(_instances))"
    before = int(notebook.type(count))
    notebook.run_all(120)
    ready(notebook)
    assert int(notebook.type(count)) == before
    expect(notebook.page.locator(".atheria-workbench")).to_have_count(1)
    press(notebook.page, "step")
    expect(notebook.page.locator(".atheria-run-status")).to_contain_text("1 steps made")


def test_a_page_that_comes_back_goes_on(notebook, lab):
    page = notebook.page
    press(page, "run")
    seen = frames(page)
    page.context.set_offline(True)
    page.wait_for_timeout(1500)
    page.context.set_offline(False)
    page.wait_for_function(
        f"document.querySelector('.atheria-lattice').dataset.frames > {seen + 5}", timeout=60_000
    )
    press(page, "stop")
    expect(page.locator(".atheria-run-status")).to_contain_text("ready")


def test_close_takes_everything_from_the_page(notebook):
    notebook.type("bench.close()")
    expect(notebook.page.locator(".atheria-workbench")).to_have_count(0)
    assert notebook.errors() == []
