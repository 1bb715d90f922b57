"""10,000 frames leave the browser's heap within 5 MiB of that after 500: ``make soak``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))

from heap import OPEN, held, watch
from jupyterlab_page import Lab, launch, open_page
from playwright.sync_api import sync_playwright

MIB = 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        lab = Lab(Path(folder))
        try:
            page = launch(playwright).new_page(viewport={"width": 1280, "height": 1000})
            notebook = open_page(lab, page, lab.write("soak.ipynb", OPEN, "pass"))
            notebook.run_all()
            print("  frames  page heap  kernel heap (MiB)  widgets")
            readings = []
            for frames in (500, 1000, 2000, 5000, 10_000):
                watch(notebook, frames)
                readings.append(held(notebook))
                now = readings[-1]
                print(
                    f"{frames:8,}  {now.page / MIB:9.2f}  {now.kernel / MIB:17.2f}  "
                    f"{now.widgets:7}",
                    flush=True,
                )
            grown = readings[-1].page - readings[0].page
            assert grown < 5 * MIB, f"the page's heap grew by {grown / MIB:.1f} MiB"
            assert readings[-1].widgets == readings[0].widgets
            print(f"flat: {grown / MIB:+.2f} MiB from 500 frames to 10,000")
            notebook.type("view.close(); curves.close()")
        finally:
            lab.close()


if __name__ == "__main__":
    main()
