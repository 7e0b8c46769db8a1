"""Builds what a request passes through as machine code, with mypyc, of the very source that runs without it.

    HATCH_BUILD_HOOKS_ENABLE=1 pip wheel --no-deps .

Without that variable, or in an editable installation, everything stays Python. See `docs/decisions/0050`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILED = (
    "ticket", "cookie", "session", "lifecycle", "manager", "asgi", "starlette",
    "stores/redis/conversation", "stores/redis/connection", "stores/redis/wire", "stores/redis/layout",
    "stores/redis/verbs", "stores/redis/store",
)  # fmt: skip
"""The modules on the way of a request. What they hand one another is checked where it enters, so keep them together."""

_SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup

setup(
    name="coatcheck",
    packages=["coatcheck"],
    ext_modules=mypycify(["--config-file=", "--strict", *sys.argv[1:]], opt_level="2", debug_level="0"),
    script_args=["build_ext", "--inplace"],
)
"""


class MypycHook(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel, beside their source."""

    def dependencies(self) -> list[str]:
        return ["mypy>=2.4", "setuptools>=75", "redis>=5.2", "hiredis>=3"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # its modules would hide their source
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="coatcheck-build-")
        for library in compile_package(Path(self.root) / "src" / "coatcheck", Path(self._scratch.name)):
            build_data["force_include"][str(library)] = str(library.relative_to(self._scratch.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._scratch.cleanup()


def compile_package(source: Path, scratch: Path) -> list[Path]:
    """Compile a copy of the package in an empty directory. Returns the libraries, where they belong below it."""
    shutil.copytree(source, scratch / "coatcheck", ignore=shutil.ignore_patterns("__pycache__", "lab", "cli", "*.so"))
    modules = [f"coatcheck/{name}.py" for name in COMPILED]
    environment = {**os.environ, "MYPYPATH": str(scratch)}
    subprocess.run([sys.executable, "-c", _SETUP, *modules], cwd=scratch, env=environment, check=True)
    return [path for path in scratch.rglob("*.so") if "build" not in path.relative_to(scratch).parts]
