"""A real browser: the machine's own Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # milliseconds: a busy machine builds servers slowly

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ARGUMENTS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Complaints(list[str]):
    """What a page wrote to its console or tried to fetch from elsewhere."""


@contextmanager
def a_page(
    *, scheme: Literal["light", "dark"] = "light", width: int = 1200, still: bool = False
) -> Iterator[tuple[Page, Complaints]]:
    """A page of a new browser, and what it has complained about so far.

    Skips the test where there is no Chromium; in CI (`COATCHECK_REQUIRE_SERVERS=1`) that is an error.

    Args:
        scheme: the colours that its user prefers.
        width: of the window, in pixels.
        still: whether its user wants no moving pictures.
    """
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        if os.environ.get("COATCHECK_REQUIRE_SERVERS") == "1":
            raise RuntimeError("COATCHECK_REQUIRE_SERVERS=1, and there is no chromium on the PATH: install it")
        pytest.skip("no chromium on the PATH")
    complaints = Complaints()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        try:
            page = browser.new_page(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                reduced_motion="reduce" if still else "no-preference",
            )
            page.set_default_timeout(30_000)
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "request",
                lambda request: (
                    None
                    if request.url.startswith(("file:", "data:", "http://127.0.0.1:"))
                    else complaints.append(f"it wants {request.url}")
                ),
            )
            yield page, complaints
        finally:
            browser.close()
