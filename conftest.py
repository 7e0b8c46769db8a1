"""Every Python snippet in the README, in docs/ and in docstrings runs as a test.

Snippets may `await` at their top level, as in `python -m asyncio`. Where one says redis://localhost:6379, it gets the
tests' own server, and a file of its own where it says sqlite:///sessions.db.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import tempfile
from typing import Any

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser
from sybil.parsers.rest import DocTestParser

from tests.servers.fixtures import valkey

__all__ = ["pytest_collect_file", "pytest_plugins", "valkey"]

pytest_plugins = ["tests.servers.turns"]

_WRITTEN_URL = "redis://localhost:6379"
_WRITTEN_FILE = "sqlite:///sessions.db"


class _Waiting:
    """Runs a snippet, in one event loop per document."""

    def __call__(self, example: Example) -> None:
        source = str(example.parsed).replace(_WRITTEN_URL, example.namespace["valkey"].url)
        source = source.replace(_WRITTEN_FILE, f"sqlite:///{example.namespace['folder'].name}/sessions.db")
        source = "\n" * (example.line + example.parsed.line_offset) + source  # so that tracebacks name the right line
        code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        waiting = eval(code, example.namespace)  # noqa: S307 - it is our own documentation
        if inspect.iscoroutine(waiting):
            example.namespace["event_loop"].run(waiting)


def _begin(namespace: dict[str, Any]) -> None:
    namespace["__name__"] = "__main__"  # as where a reader tries it: Flask looks for the application's files by that
    namespace["event_loop"] = asyncio.Runner()
    namespace["folder"] = tempfile.TemporaryDirectory(prefix="coatcheck-")


def _end(namespace: dict[str, Any]) -> None:
    namespace["event_loop"].close()
    namespace["folder"].cleanup()


_pages = Sybil(
    parsers=[CodeBlockParser(language="python", evaluator=_Waiting())],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
    setup=_begin,
    teardown=_end,
    fixtures=["valkey"],
)
_docstrings = Sybil(parsers=[DocTestParser()], patterns=["src/*.py", "src/**/*.py"])

pytest_collect_file = (_pages + _docstrings).pytest()
