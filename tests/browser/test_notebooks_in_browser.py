"""The notebooks open in JupyterLab, run from top to bottom, and show their pictures.

Here those that take seconds; ``make soak`` runs all. (nbval runs all of them, without a page.)
"""

import os
import shutil
from pathlib import Path

import pytest

QUICK = ("02_native_stepping", "03_snapshots", "05_workbench")
NOTEBOOKS = [
    path
    for path in sorted(Path(__file__).parents[2].glob("notebooks/*.ipynb"))
    if path.stem in QUICK or os.environ.get("ATHERIA_SOAK")
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_the_page(path, lab, open_notebook):
    shutil.copy(path, lab.work)
    shutil.copytree(path.parent / "images", lab.work / "images", dirs_exist_ok=True)
    notebook = open_notebook(path.name)
    notebook.run_all(300)
    assert notebook.errors() == []
    pictures = notebook.page.locator(".jp-Notebook img")
    for picture in pictures.all():
        if picture.is_visible():
            assert picture.evaluate("img => img.complete && img.naturalWidth > 0")
    notebook.page.close()
