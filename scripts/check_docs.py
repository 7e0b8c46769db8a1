"""Check what people read: links lead somewhere, and nothing in the repository belongs to one machine only.

    python scripts/check_docs.py

Links in Markdown files must lead to a file in the repository, and `#anchors` to a heading in it. Links to the web are not
followed. No tracked file may hold a path of somebody's machine or the address of a package registry: both work for its
author and for nobody else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_SOURCE = re.compile(r"""<(?:img|source|a)\b[^>]*?\b(?:src|srcset|href)="([^"]+)\"""")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)

_NOT_PORTABLE = {
    # Written in pieces, so that this file passes its own check.
    "a path of one machine": re.compile(r"(?<![\w./-])/(?:home|Users|root|wo" + r"rk)/\w"),
    "the address of a package registry": re.compile(
        r"https?://[\w.-]*(?:py"
        + r"pi\.org|pythonhosted|npm"
        + r"js\.(?:org|com)|artifactory|nexus\.)|--(?:extra-)?index-url[ =]http"
    ),
}


def main() -> int:
    tracked = _tracked_files()
    problems = [
        *(problem for path in tracked if path.suffix == ".md" for problem in _broken_links(path)),
        *(problem for path in tracked for problem in _not_portable(path)),
    ]
    for problem in problems:
        print(problem)
    print(f"{len(tracked)} files, {len(problems)} problems in links and paths")
    return 1 if problems else 0


def _tracked_files() -> list[Path]:
    """What is in git, and what would be: new files that nothing ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in sorted(set(listed.split("\0"))) if name and (path := ROOT / name).is_file()]


def _broken_links(path: Path) -> list[str]:
    problems = []
    text = _CODE.sub("", _FENCE.sub("", path.read_text("utf-8")))
    for target in [*_LINK.findall(text), *_SOURCE.findall(text)]:
        if _ELSEWHERE.match(target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.is_relative_to(ROOT):
            problems.append(f"{path.relative_to(ROOT)}: {target} leads out of the repository")
        elif not there.exists():
            problems.append(f"{path.relative_to(ROOT)}: {target} leads nowhere")
        elif anchor and there.suffix == ".md" and anchor not in _anchors(there):
            problems.append(f"{path.relative_to(ROOT)}: {target}: no such heading")
    return problems


def _anchors(path: Path) -> set[str]:
    """The anchors that Git hosts give to headings: lower case, spaces as hyphens, punctuation gone."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", path.read_text("utf-8"))):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        again = 0
        while (anchor if not again else f"{anchor}-{again}") in anchors:
            again += 1
        anchors.add(anchor if not again else f"{anchor}-{again}")
    return anchors


def _not_portable(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return []  # a picture
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}: {found.group()} is {what}"
        for what, pattern in _NOT_PORTABLE.items()
        for found in pattern.finditer(text)
    ]


if __name__ == "__main__":
    sys.exit(main())
