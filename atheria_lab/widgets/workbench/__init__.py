"""The workbench: one idea a file, put together in ``workbench``."""

from atheria_lab.widgets.workbench.settings import Settings
from atheria_lab.widgets.workbench.workbench import Workbench

__all__ = ["Settings", "Workbench"]
