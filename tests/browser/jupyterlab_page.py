"""JupyterLab and a headless Chromium, as a user has them."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Page, Playwright, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# No word to the outside: the pages come from this machine.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


class Lab:
    """A JupyterLab server in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = folder / "settings"
        for name, values in SETTINGS.items():
            path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        self.work = folder / "work"
        self.work.mkdir()
        self.log = (folder / "lab.log").open("w")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                f"--ServerApp.port={self.port}", f"--IdentityProvider.token={self.token}",
                f"--ServerApp.root_dir={self.work}",
            ],
            env=os.environ | {
                "JUPYTERLAB_SETTINGS_DIR": str(settings),
                "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
                "OMP_NUM_THREADS": "1",
            },
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._wait_for_server()

    def _wait_for_server(self) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(self.url("api/status"), timeout=5):
                    return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError((self.folder / "lab.log").read_text()) from None
                time.sleep(0.2)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"

    def write(self, name: str, *cells: str) -> str:
        """A notebook of these code cells; returns its name."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(notebook, self.work / name)
        return name

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


class Notebook:
    """A notebook that is open in a page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def run_all(self, seconds: float = 60) -> None:
        """Run every cell and wait for the last one's end."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Cells", exact=True).click()
        self.settle(seconds)

    def run_first(self, seconds: float = 60) -> None:
        """Run the first cell again and wait for its end."""
        self.page.locator(".jp-CodeCell").first.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_timeout(100)
        self.settle(seconds)

    def type(self, code: str, seconds: float = 60) -> str:
        """Replace the last cell's code, run it, and return what it prints."""
        cell = self.page.locator(".jp-CodeCell").last
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(code)
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_timeout(200)
        self.settle(seconds)
        return cell.locator(".jp-OutputArea").inner_text()

    def settle(self, seconds: float = 60) -> None:
        """Wait until no cell runs."""
        prompts = self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
        busy = re.compile(r"\[(\*| )\]")
        expect(prompts.filter(has_text=busy)).to_have_count(0, timeout=1000 * seconds)

    def errors(self) -> list[str]:
        """The tracebacks that the page shows."""
        shown = self.page.locator(
            '.jp-OutputArea-output[data-mime-type$="stderr"], .jp-RenderedText'
        )
        return [text for text in shown.all_inner_texts() if "Traceback" in text]


def launch(playwright: Playwright) -> Browser:
    """The Chromium of the system."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)


def open_page(lab: Lab, page: Page, name: str) -> Notebook:
    """Open a notebook and wait for its kernel."""
    page.goto(lab.url(f"lab/tree/{name}") + "&reset", timeout=60_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=60_000)
    page.wait_for_timeout(500)
    return Notebook(page)
