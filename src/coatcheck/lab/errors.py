"""What can go wrong with a run of the lab, and the exit code that says so."""

from __future__ import annotations

import signal
from pathlib import Path

EXIT_OK = 0
EXIT_CLAIM_NOT_SHOWN = 1
EXIT_USAGE = 2
EXIT_FAILED = 3
EXIT_SIGNAL = 128  # plus the signal's number, as shells have it: 130 for Ctrl-C


class LabError(Exception):
    """The lab cannot go on. The message says why and what to do; no traceback is needed to understand it.

    Attributes:
        exit_code: what the command exits with.
    """

    exit_code = EXIT_FAILED


class UsageError(LabError):
    """An option that cannot work.

    Args:
        option: as typed, with its dashes.
        value: what was given.
        problem: why it cannot work.
        next_step: what to give instead.
    """

    exit_code = EXIT_USAGE

    def __init__(self, option: str, value: object, problem: str, next_step: str) -> None:
        super().__init__(f"{option} {value}: {problem}. {next_step}.")
        self.option = option


class MissingPart(LabError):
    """A program or package that the lab needs is not on this machine."""

    exit_code = EXIT_USAGE


class NoRun(LabError):
    """The folder named holds no run of the lab."""

    exit_code = EXIT_USAGE


class ProcessFailed(LabError):
    """A process of the lab did not start, or ended although nobody had asked it to.

    Args:
        name: the process, such as `web-1`.
        problem: what it did.
        log: where its output is kept; the last lines are quoted.
    """

    def __init__(self, name: str, problem: str, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
        quoted = "".join(f"\n    {line}" for line in lines) or "\n    (it wrote nothing)"
        super().__init__(f"{name} {problem}. The end of its log, {log}:{quoted}")
        self.name = name


class HistoryFault(LabError):
    """A history that cannot be judged: part of it is missing, or it contradicts itself. No figures are made from it."""


class Interrupted(LabError):
    """Somebody asked the lab to stop: Ctrl-C, or a signal from outside. The message says how.

    Attributes:
        signal_number: which signal.
    """

    def __init__(self, signal_number: int) -> None:
        ctrl_c = signal_number == signal.SIGINT
        super().__init__("with Ctrl-C" if ctrl_c else f"by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number
        self.exit_code = EXIT_SIGNAL + signal_number
