"""What the live view gives and costs in a browser: ``make bench`` writes the table.

Frames a second of a 256x256 view while nothing else runs and while a law trains; how much slower
that training is than with the view out of sight; and the time from a key on a slider to the new
picture at 128x128.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "browser"))

from jupyterlab_page import Lab, Notebook, launch, open_page  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

SECONDS, PAIRS, KEYS = 8.0, 5, 12
IDLE = """
import threading, time
import atheria_lab as al
view = al.widgets.LatticeView(per_second=60)
states = [al.lattice.random(256, 8, seed=seed) for seed in range(4)]
def show():
    step = 0
    while view.comm is not None:
        view.show(states[step % 4], step)
        step += 1
        time.sleep(1 / 60)
threading.Thread(target=show, daemon=True).start()
view
"""
TRAIN = """
import atheria_lab as al
bench = al.widgets.Workbench(law="MLP", size=256, d_state=8, hidden=16, steps=50, keep=2,
                             budget=2**30)
bench
"""
SMALL = """
import atheria_lab as al
bench = al.widgets.Workbench(law="MLP", size=64, d_state=4)
bench
"""
LISTEN = """() => {
  window.took = []; let asked = 0;
  addEventListener("keydown", () => { asked = performance.now(); }, true);
  new MutationObserver(() => {
    if (asked) window.took.push(performance.now() - asked);
    asked = 0;
  }).observe(document.querySelector(".atheria-lattice"), { attributeFilter: ["data-frames"] });
}"""


def frames(notebook: Notebook) -> int:
    return int(notebook.page.locator(".atheria-lattice").first.get_attribute("data-frames") or 0)


def frames_a_second(notebook: Notebook) -> float:
    start, before = time.perf_counter(), frames(notebook)
    notebook.page.wait_for_timeout(1000 * SECONDS)
    return (frames(notebook) - before) / (time.perf_counter() - start)


def steps_made(notebook: Notebook) -> int:
    return int(notebook.type("print(bench.session.steps_made)").split()[0])


def steps_a_second(notebook: Notebook, seen: bool) -> tuple[float, float]:
    """Steps and frames a second, the lattice in sight or the last cell instead."""
    lattice = notebook.page.locator(".atheria-lattice").first
    before = steps_made(notebook)
    if seen:
        lattice.scroll_into_view_if_needed()
    start, drawn = time.perf_counter(), frames(notebook)
    notebook.page.wait_for_timeout(1000 * SECONDS)
    took = time.perf_counter() - start
    drawn = frames(notebook) - drawn
    made = steps_made(notebook) - before
    return made / took, drawn / took


def open_bench(lab: Lab, browser, name: str, code: str) -> Notebook:
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    notebook = open_page(lab, page, lab.write(name, code, "pass"))
    notebook.run_all(120)
    page.locator(".atheria-lattice").first.scroll_into_view_if_needed()
    page.wait_for_timeout(4000)
    return notebook


def main() -> None:
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab, browser = Lab(Path(folder)), launch(playwright)
        try:
            idle = open_bench(lab, browser, "idle.ipynb", IDLE)
            result["idle_frames_a_second"] = frames_a_second(idle)
            idle.type("view.close()")
            idle.page.close()

            train = open_bench(lab, browser, "train.ipynb", TRAIN)
            train.page.locator("[data-action=train]").click()
            train.page.wait_for_timeout(5000)
            seen, hidden = [], []
            for _ in range(PAIRS):
                hidden.append(steps_a_second(train, seen=False))
                seen.append(steps_a_second(train, seen=True))
            result["training_frames_a_second"] = statistics.median(f for _, f in seen)
            result["training_steps_a_second_hidden"] = statistics.median(s for s, _ in hidden)
            result["training_slowed_by"] = 1 - statistics.median(
                s / h for (s, _), (h, _) in zip(seen, hidden, strict=True)
            )
            train.type("bench.close()")
            train.page.close()

            small = open_bench(lab, browser, "small.ipynb", SMALL)
            page = small.page
            label = page.locator(".widget-label").get_by_text("size", exact=True)
            handle = page.locator(".widget-hslider").filter(has=label).locator(".noUi-handle")
            page.evaluate(LISTEN)
            for turn in range(2 * KEYS):
                handle.focus()
                page.keyboard.press("ArrowLeft" if turn % 2 else "ArrowRight")
                page.wait_for_timeout(700)
            took = page.evaluate("window.took")[::2]
            result["slider_to_picture_ms"] = statistics.median(took)
            result["slider_to_picture_worst_ms"] = max(took)
            small.type("bench.close()")
        finally:
            lab.close()
    (HERE / "view.json").write_text(json.dumps(result, indent=2) + "\n")
    rows = [
        ("256x256 view, nothing else runs", f"{result['idle_frames_a_second']:.0f} frames/s", ""),
        ("256x256 view while an MLP trains",
         f"{result['training_frames_a_second']:.0f} frames/s", ">= 30"),
        ("that training slowed by the view", f"{result['training_slowed_by']:.1%}", "< 5 %"),
        ("slider to picture, 128x128",
         f"{result['slider_to_picture_ms']:.0f} ms "
         f"(worst of {KEYS}: {result['slider_to_picture_worst_ms']:.0f})", "< 100 ms"),
    ]  # fmt: skip
    lines = [
        "# The live view",
        "",
        "JupyterLab and a headless Chromium, which draws without a GPU, on the same two cores as",
        "the training.",
        "",
        "| | measured | goal |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    (HERE / "view.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
