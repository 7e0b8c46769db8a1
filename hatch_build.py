"""Builds what a request passes through as machine code, with mypyc, of the very source that runs without it.

    HATCH_BUILD_HOOKS_ENABLE=1 pip wheel --no-deps .

Without that variable, or in an editable installation, everything stays Python. See
`docs/decisions/0041-the-way-of-a-request-is-compiled.md`.
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
    "clock", "ticket", "cookie", "codec", "record", "session", "lifecycle", "manager", "asgi",
    "stores/redis/gate", "stores/redis/commands", "stores/redis/waiting", "stores/redis/replies",
    "stores/redis/conversation", "stores/redis/connection", "stores/redis/wire", "stores/redis/layout",
    "stores/redis/near", "stores/redis/verbs", "stores/redis/wires", "stores/redis/store",
)  # fmt: skip
"""The modules on the way of a request. What they hand one another is checked where it enters, so keep them together."""

_SETUP = """
import re
import sys
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup

extensions = mypycify(["--config-file=", "--strict", *sys.argv[1:]], opt_level="2", debug_level="0")
# What has a Python base is given a place for weak references and for attributes nobody named. When it goes the references
# stay and lead nowhere, and the process dies of them. Without compiling it has neither, since it has __slots__.
for source in Path("build").rglob("*.[ch]"):
    text = source.read_text()
    safe = re.sub(
        r'^.*(tp_(weaklist|dict)offset = |"__(weakref|dict)__", T_OBJECT_EX|PyObject_(Visit|Clear)ManagedDict\\().*\\n',
        "", text, flags=re.MULTILINE,
    ).replace(" | Py_TPFLAGS_MANAGED_DICT", "")  # as Python 3.12 and later have it
    if safe != text:
        source.write_text(safe)
setup(name="coatcheck", packages=["coatcheck"], ext_modules=extensions, script_args=["build_ext", "--inplace"])
"""

_CHECK = """
import importlib
import sys

for name in sys.argv[1:]:
    module = importlib.import_module(name)
    assert not module.__file__.endswith(".py"), f"{name} is not compiled"
    for each in vars(module).values():
        if isinstance(each, type) and each.__module__ == name and hasattr(each, "__mypyc_attrs__"):
            open_ended = each.__weakrefoffset__ or (each.__dictoffset__ and not issubclass(each, BaseException))
            assert not open_ended, f"{name}.{each.__name__} takes weak references or any attribute, and must not"
"""


class MypycHook(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel, beside their source."""

    def dependencies(self) -> list[str]:
        return ["mypy==2.4.*", "setuptools>=75", "msgspec>=0.19", "mypy-extensions>=1.0", "redis>=5.2", "hiredis>=3"]

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
    # In PYTHONPATH pip names what it has brought for this very build, mypy among it.
    path = os.pathsep.join(filter(None, [str(scratch), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "MYPYPATH": str(scratch), "PYTHONPATH": path}

    def run(program: str, *arguments: str) -> None:
        command = [sys.executable, "-c", program, *arguments]
        subprocess.run(command, cwd=scratch, env=environment, check=True)  # noqa: S603 - programs of this very file

    run(_SETUP, *(f"coatcheck/{name}.py" for name in COMPILED))
    run(_CHECK, *(f"coatcheck.{name.replace('/', '.')}" for name in COMPILED))
    return [path for path in scratch.rglob("*.so") if "build" not in path.relative_to(scratch).parts]
