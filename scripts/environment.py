"""Create or update the virtual environment in `.venv`; quick when nothing has changed.

    python3 scripts/environment.py lab      what `make lab` needs
    python3 scripts/environment.py dev      that, and everything for tests, checks and benchmarks

The packages come from `requirements/NAME.txt`, each checked against its hash. Whoever starts this chooses the Python.
An installation that was interrupted is noticed and made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("VENV") or ROOT / ".venv").absolute()
PYTHON = VENV / "bin" / "python"
UNFINISHED = VENV / ".coatcheck-unfinished"  # there while an installation is under way, or after it was interrupted
CONTAINS = {"lab": [], "dev": ["lab"]}  # what a set of requirements satisfies besides itself


def main() -> int:
    for name in ("SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):  # Windows has no SIGHUP
            signal.signal(number, signal.default_int_handler)
    try:
        return _prepare()
    except KeyboardInterrupt:
        print("Stopped; run it again to go on.", file=sys.stderr)
        return 130


def _prepare() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - an older one gets to read this
        return _fail(f"coatcheck needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}.")
    if len(sys.argv) != 2 or sys.argv[1] not in CONTAINS:
        return _fail(f"usage: {sys.argv[0]} {'|'.join(CONTAINS)}")
    name = sys.argv[1]
    wanted = _digest(name)
    with _only_one():
        if not UNFINISHED.exists() and _installed(name) == wanted and _runs("-c", "pass"):
            return 0
        started = time.monotonic()
        print(f"Preparing {_shown(VENV)} from requirements/{name}.txt (a minute or two the first time) …", flush=True)
        try:
            _install(name)
        except subprocess.CalledProcessError as error:
            return _fail(f"Preparing {_shown(VENV)} failed: {' '.join(map(str, error.cmd))}")
        for satisfied in (name, *CONTAINS[name]):
            _stamp(satisfied).write_text(_digest(satisfied))
        UNFINISHED.unlink()
        print(f"Prepared {_shown(VENV)} in {time.monotonic() - started:.0f} s.", flush=True)
    return 0


def _install(name: str) -> None:
    if UNFINISHED.exists() or not _runs("-c", "pass"):
        # Half a package can look like a whole one to pip, so what was interrupted is not built upon.
        _run(sys.executable, "-m", "venv", "--clear", "--without-pip", VENV)
    UNFINISHED.touch()
    pip: list[str | Path] = [PYTHON, "-m", "pip"]
    if not _runs("-m", "pip", "--version"):
        if importlib.util.find_spec("ensurepip"):
            _run(sys.executable, "-m", "venv", VENV)
        else:  # Debian without python3-venv: its own pip does the work
            pip = [sys.executable, "-m", "pip", "--python", PYTHON]
    pip += ["--disable-pip-version-check", "--quiet", "install"]
    _run(*pip, "--require-hashes", "-r", ROOT / "requirements" / f"{name}.txt")
    _run(*pip, "--no-deps", "--no-build-isolation", "-e", ROOT)


def _run(*command: str | Path) -> None:
    """Run a command to its end; if this is interrupted, end it and all that it started, and clear up after it."""
    # A user's own settings must not send packages elsewhere.
    kept = {name: value for name, value in os.environ.items() if name not in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")}
    with tempfile.TemporaryDirectory(prefix="coatcheck-environment-") as scratch:
        # A group of its own, because at Ctrl-C the terminal signals all of ours, and each would print a traceback.
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            env={**kept, "PIP_USER": "0", "TMPDIR": scratch},
            process_group=0,
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # once is enough
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if code:
        raise subprocess.CalledProcessError(code, process.args)


def _runs(*arguments: str) -> bool:
    """Whether there is an environment whose Python still does this: the one that it was made from may be gone."""
    try:
        return subprocess.run([PYTHON, *arguments], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _digest(name: str) -> str:
    """Of everything that decides what gets installed: the locked packages, and the package's own entry points."""
    import tomllib  # here, so that an older Python gets as far as being told

    packages = (ROOT / "requirements" / f"{name}.txt").read_bytes()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    ours = repr((project["build-system"], project["project"], project["tool"]["hatch"])).encode()
    return hashlib.sha256(packages + ours).hexdigest()


def _stamp(name: str) -> Path:
    return VENV / f".coatcheck-{name}"


def _installed(name: str) -> str | None:
    with contextlib.suppress(OSError):
        return _stamp(name).read_text()
    return None


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Let two `make`s at the same time take turns."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    # The lock is taken on this very folder: no file is left behind.
    folder = os.open(ROOT / "requirements", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
