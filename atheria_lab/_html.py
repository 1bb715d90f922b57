"""Small tables for a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping


def table(caption: str, rows: Mapping[str, str]) -> str:
    """Names and values, one a row, escaped."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table><caption>{html.escape(caption)}</caption>{cells}</table>"
