"""The `coatcheck` command.

Commands come from the entry point group `coatcheck.commands`: each is a cyclopts `App`. This package imports none of
them, so what a command needs is only needed by those who use it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

from coatcheck import __version__

GROUP = "coatcheck.commands"
_EXTRAS = {"schema": "sql", "sweep": "sql"}  # command to the extra that it needs, where that is called otherwise
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code; also the console script.

    Args:
        arguments: what was typed after `coatcheck`; by default `sys.argv`.

    Returns:
        What the command says. 2 for a command line that cannot be understood or a package that is missing, 130 for
        Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        import cyclopts
        import rich  # noqa: F401
    except ModuleNotFoundError as missing:
        return _say_what_to_install("coatcheck", missing, "cli")

    app = cyclopts.App(
        name="coatcheck",
        help="Web sessions that any of your servers finds.",
        version=f"coatcheck {__version__}",
        help_format="plaintext",
        result_action="return_value",
    )
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            app.command(point.load(), name=point.name)
        except ModuleNotFoundError as missing:
            if words[:1] == [point.name]:
                return _say_what_to_install(f"coatcheck {point.name}", missing, _extra(point))
            app.command(_unavailable(point, missing), name=point.name)
    try:
        code: object = app(words, exit_on_error=False)
    except cyclopts.CycloptsError:
        return EXIT_USAGE  # cyclopts has explained it
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


def _unavailable(point: EntryPoint, missing: ModuleNotFoundError) -> Callable[[], int]:
    """A stand-in, so that the help still lists the command."""

    def command() -> int:
        return _say_what_to_install(f"coatcheck {point.name}", missing, _extra(point))

    command.__doc__ = f"Needs more packages: pip install 'coatcheck[{_extra(point)}]'"
    return command


def _extra(point: EntryPoint) -> str:
    return _EXTRAS.get(point.name, point.name)


def _say_what_to_install(command: str, missing: ModuleNotFoundError, extra: str) -> int:
    print(
        f"`{command}` needs {missing.name}, which is not installed. Install it with: pip install 'coatcheck[{extra}]'",
        file=sys.stderr,
    )
    return EXIT_USAGE
