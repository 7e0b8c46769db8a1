"""Running the real lab from a test, as a person would from a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coatcheck.lab.processes import FILE, RUN_VARIABLE, ProcessRecord

_COMMAND = "import sys; from coatcheck.cli import main; sys.exit(main())"  # what the console script does

# Small, but enough to decide every claim.
SMALL = ("--carts-only", "--shoppers", "40", "--rate", "170", "--seconds", "4")


@dataclass
class Lab:
    """A lab that is running."""

    popen: subprocess.Popen[str]
    runs: Path

    @property
    def run(self) -> Path:
        """The folder of its run, the only one there."""
        return next((path for path in self.runs.glob("*Z") if path.is_dir()), self.runs / "not yet")

    def records(self) -> list[ProcessRecord]:
        """What it wrote about its processes so far."""
        try:
            lines = (self.run / FILE).read_bytes().splitlines()
        except OSError:
            return []
        return [msgspec.json.decode(line, type=ProcessRecord) for line in lines]

    def started(self, name: str) -> bool:
        """Whether it has started this process."""
        return any(record.name == name for record in self.records())

    def wait_for(self, condition: Callable[[], object], seconds: float = 25) -> None:
        """Wait for a moment in the lab's run."""
        until = time.monotonic() + seconds
        while not condition():
            assert self.popen.poll() is None, f"the lab ended early:\n{self.popen.communicate()}"
            assert time.monotonic() < until, "that moment never came"
            time.sleep(0.005)

    def end(self, seconds: float = 15) -> tuple[str, str]:
        """Wait until the lab has ended, and give what it said: standard output and standard error."""
        return self.popen.communicate(timeout=seconds)

    def processes(self) -> set[int]:
        """The processes of this run that are alive, recorded or not.

        They are known by their environment, or by where they work: Valkey writes its title over its environment.
        """
        home = f"{self.runs.resolve()}{os.sep}"
        mark = f"{RUN_VARIABLE}={home}".encode()
        found = set()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if mark in (folder / "environ").read_bytes() or os.readlink(folder / "cwd").startswith(home):
                        found.add(int(folder.name))
                except OSError:
                    continue  # somebody else's, or gone
        return found


def start_lab(runs: Path, *options: str) -> Lab:
    """Start `coatcheck lab` with `options`, keeping runs in `runs`."""
    popen = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "lab", "--runs", str(runs), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal of its own, so to speak
    )
    return Lab(popen, runs)
