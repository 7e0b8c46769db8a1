"""Fail if a test was left out: a promise that nobody tested on this machine is not kept.

    python scripts/check_skipped.py JUNIT.xml

The store contract has optional parts. A store that lacks one says so, and that is no omission.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree

OPTIONAL = (
    "this store keeps no index of owners, which is optional",
    "this store names no way to damage a record: override `corruptions`",
)


def main() -> int:
    tests = list(ElementTree.parse(sys.argv[1]).getroot().iter("testcase"))
    left_out = [
        f"{test.get('classname')}.{test.get('name')}: {skipped.get('message')}"
        for test in tests
        for skipped in test.iter("skipped")
        if skipped.get("message") not in OPTIONAL
    ]
    for line in left_out:
        print(f"left out: {line}")
    if not tests:
        print("no test ran")
    return 1 if left_out or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
