"""How the compiled package is built."""

from __future__ import annotations

import os
import subprocess
from importlib import util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def test_the_compiler_is_found_where_pip_has_put_it_for_this_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pip install .`, which isolates the build, hands down its packages in PYTHONPATH. `make compiled` does not isolate."""
    spec = util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook = util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    paths: list[list[str]] = []

    def run(*_: Any, env: dict[str, str], **__: Any) -> None:
        paths.append(env["PYTHONPATH"].split(os.pathsep))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("PYTHONPATH", "/brought/by/pip")
    hook.compile_package(ROOT / "src" / "coatcheck", tmp_path)
    monkeypatch.delenv("PYTHONPATH")
    hook.compile_package(ROOT / "src" / "coatcheck", tmp_path / "another")
    with_pip, without = [str(tmp_path), "/brought/by/pip"], [str(tmp_path / "another")]
    assert paths == [with_pip, with_pip, without, without]
