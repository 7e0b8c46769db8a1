"""The scripts that watch over the documentation and over CI, with faults planted for them to find."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def _run(script: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "check_docs.py", tmp_path / "scripts")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "page.md").write_text("# A page\n\n## A *good* heading!\n\n[here](#a-good-heading), [file](scripts/)\n")
    return tmp_path


def test_a_sound_repository_passes(repository: Path) -> None:
    status, said = _run(repository / "scripts" / "check_docs.py")
    assert status == 0, said


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[x](nowhere.md)", "nowhere.md leads nowhere"),
        ("![x](img/nothing.svg)", "img/nothing.svg leads nowhere"),
        ("[x](page.md#no-heading)", "page.md#no-heading: no such heading"),
        ("[x](../outside.md)", "../outside.md leads out of the repository"),
        ("see /ho" + "me/somebody/notes", "a path of one machine"),
        ("https://py" + "pi.org/simple", "the address of a package registry"),
    ],
)
def test_a_fault_in_a_page_is_found(repository: Path, line: str, complaint: str) -> None:
    (repository / "faulty.md").write_text(f"# Faulty\n\n{line}\n")
    status, said = _run(repository / "scripts" / "check_docs.py")
    assert status == 1
    assert complaint in said


def test_what_git_ignores_and_what_is_code_is_not_looked_at(repository: Path) -> None:
    (repository / ".gitignore").write_text("runs/\n")
    (repository / "runs").mkdir()
    (repository / "runs" / "page.md").write_text("[x](nowhere.md)")
    (repository / "code.md").write_text("```text\n[x](nowhere.md)\n```\n\n`[x](nowhere.md)`\n")
    status, said = _run(repository / "scripts" / "check_docs.py")
    assert status == 0, said


def _junit(path: Path, cases: str) -> str:
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return str(path)


def test_a_skipped_test_is_found_unless_it_is_an_optional_part(tmp_path: Path) -> None:
    script = SCRIPTS / "check_skipped.py"
    ran = '<testcase classname="a" name="b"/>'
    reason = "this store keeps no index of owners, which is optional"
    optional = f'<testcase classname="a" name="c"><skipped message="{reason}"/></testcase>'
    skipped = '<testcase classname="a" name="d"><skipped message="no server"/></testcase>'
    assert _run(script, _junit(tmp_path / "1.xml", ran + optional))[0] == 0
    status, said = _run(script, _junit(tmp_path / "2.xml", ran + skipped))
    assert status == 1
    assert "a.d: no server" in said
    assert _run(script, _junit(tmp_path / "3.xml", "")) == (1, "no test ran\n")
