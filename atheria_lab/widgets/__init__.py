"""Widgets for notebooks: the only room that imports ipywidgets or matplotlib."""

from atheria_lab.widgets.lattice_view import LatticeView, Stroke
from atheria_lab.widgets.quickstart import Quickstart

__all__ = ["LatticeView", "Quickstart", "Stroke"]
