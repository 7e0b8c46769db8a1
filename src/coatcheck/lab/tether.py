"""Become another program that dies with the lab, whatever happens to the lab: `python tether.py PARENT PROGRAM ARG…`.

`PARENT` is its process id. `PARENT:USER` also gives up root and becomes the user with that number: PostgreSQL refuses
to run as root.

The lab stops its processes itself. This is for the one case in which it cannot: when the lab itself is killed with
SIGKILL. Linux then sends SIGKILL to whoever asked for it with prctl(PR_SET_PDEATHSIG). The request survives exec, so
it is made here, by a process of its own, rather than in the lab between fork and exec, where almost nothing is safe.

Elsewhere than on Linux this only becomes the program. It imports nothing of coatcheck: it has to start fast.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the program."""
    who, program = sys.argv[1], sys.argv[2:]
    parent, _, user = who.partition(":")
    if user:
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))  # before the request below, which this would undo
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the lab is gone already")  # it died before it could be tied to
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that would survive exec too
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell: the arguments are passed on as they are
    except OSError as problem:
        sys.exit(f"{program[0]} cannot be run: {problem.strerror}")


if __name__ == "__main__":
    main()
