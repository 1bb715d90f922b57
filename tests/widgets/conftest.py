import pytest

from atheria_lab.widgets.live import drop_anchor


@pytest.fixture(scope="session", autouse=True)
def anchored():
    """The widget that is never closed is there before a test counts widgets."""
    drop_anchor()
