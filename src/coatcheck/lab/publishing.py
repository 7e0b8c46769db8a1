"""Writes a run's reports into its folder."""

from __future__ import annotations

from pathlib import Path

from coatcheck.lab import results
from coatcheck.lab.markdown import markdown
from coatcheck.lab.page import html
from coatcheck.lab.results import Results

HTML = "report.html"
MARKDOWN = "report.md"


def publish(found: Results, folder: Path) -> None:
    """Write `report.html`, `report.md` and `results.json`, if the run came to its end."""
    if found.complete:
        (folder / HTML).write_text(html(found, folder), "utf-8")
        (folder / MARKDOWN).write_text(markdown(found), "utf-8")
        results.write(found, folder)
