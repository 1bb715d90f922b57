"""Fixtures: a JupyterLab, a Chromium, and a notebook that is open in it."""

import os

import pytest
from jupyterlab_page import CHROMIUM, Lab, Notebook, launch, open_page
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    if CHROMIUM is None:
        message = "Chromium is not here: apt-get install -y chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def chromium(lab):
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_notebook(lab, chromium):
    """``open_notebook(name)``: a :class:`Notebook`; the page's own errors fail the tests."""
    pages, faults = [], []

    def open_(name: str, **options) -> Notebook:
        page = chromium.new_page(viewport={"width": 1280, "height": 1000}, **options)
        pages.append(page)
        page.on("pageerror", lambda error: faults.append(str(error)))
        return open_page(lab, page, name)

    yield open_
    for page in pages:
        page.close()
    assert faults == []
