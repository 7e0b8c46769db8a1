"""The live view: real servers, and a real browser that presses its buttons."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.servers.chromium import a_page
from tests.servers.processes import wait_until

_COMMAND = "import sys; from coatcheck.cli import main; sys.exit(main())"


class Live:
    """`coatcheck lab watch`, as started from a terminal."""

    def __init__(self, scratch: Path, first: str = "sticky") -> None:
        self._scratch = scratch
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "lab", "watch", first, "--no-browser"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | {"TMPDIR": str(scratch)},
        )  # fmt: skip
        assert self.popen.stdout is not None
        told = re.search(r"http://\S+", self.popen.stdout.readline())
        assert told is not None
        self.url = told[0]

    def processes(self) -> list[int]:
        """What it started and is alive, by its folder for temporary files."""
        mark = f"TMPDIR={self._scratch}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and (
                    mark in (folder / "environ").read_bytes().split(b"\0")
                    or os.readlink(folder / "cwd").startswith(str(self._scratch))
                ):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    started = Live(tmp_path)
    yield started
    if started.popen.poll() is None:
        os.killpg(started.popen.pid, signal.SIGINT)
    started.popen.communicate(timeout=20)


def ready(page: Page, architecture: str) -> None:
    page.wait_for_function(f"state !== null && !state.busy && state.architecture === '{architecture}'")


def look_until(page: Page, verdict: str) -> None:
    """Look at the cart again and again, until the page says this of it."""

    def says_so() -> bool:
        page.get_by_role("button", name="Look at the cart").press("Enter")
        page.wait_for_timeout(150)
        return verdict in page.locator("#verdict").inner_text()

    wait_until(says_so, f"a look at the cart of which is said: {verdict}", seconds=40)


def noticed(page: Page, server: str) -> None:
    """Wait until the balancer has noticed that nobody reaches this server: looks are answered, and not by it."""
    in_a_row = 0

    def answered() -> bool:
        nonlocal in_a_row
        page.get_by_role("button", name="Look at the cart").press("Enter")
        page.wait_for_function("fetch('/').then(() => true)")
        page.wait_for_timeout(100)
        you = page.evaluate("state.people[0]")
        in_a_row = in_a_row + 1 if not you["trouble"] and you["server"] != server else 0
        return in_a_row >= 8

    wait_until(answered, f"the balancer's notice that {server} cannot be reached", seconds=40)


def test_a_link_to_the_store_that_is_cut_logs_nobody_out(live: Live) -> None:
    with a_page() as (page, complaints):
        page.goto(live.url)
        ready(page, "sticky")
        assert page.get_by_role("button", name="Cut store link").count() == 0, "there is no store"
        page.locator("#architectures input[value=redis]").check(force=True)
        ready(page, "redis")
        page.get_by_role("button", name="Pause the others").click()
        page.get_by_role("button", name="Put in a hat").click()
        expect(page.locator("#seen")).to_have_text("1 hat")
        session = page.evaluate("state.people[0].session")
        for server in ("web-1", "web-2", "web-3"):
            page.get_by_role("button", name=f"Cut store link: {server}").press("Enter")
            expect(page.locator("#parts")).to_contain_text(f"{server}: up, store link cut")
        assert page.locator("#stage .wire.cut").count() == 3
        look_until(page, "Your cart was not shown: asked to come again (503)")
        for server in ("web-1", "web-2", "web-3"):
            page.get_by_role("button", name=f"Mend store link: {server}").press("Enter")
            expect(page.locator("#parts")).not_to_contain_text(f"{server}: up, store link cut")
        look_until(page, "Right, says web-")
        assert page.evaluate("state.people[0].session") == session
        assert complaints == []


def test_servers_that_do_not_hear_one_another_show_different_carts_until_the_link_is_mended(live: Live) -> None:
    with a_page(scheme="dark") as (page, complaints):
        page.goto(live.url)
        ready(page, "sticky")
        page.locator("#architectures input[value=all-to-all]").check(force=True)
        ready(page, "all-to-all")
        page.get_by_role("button", name="Pause the others").click()
        page.get_by_role("button", name="Put in a hat").click()
        expect(page.locator("#seen")).to_have_text("1 hat")
        page.get_by_role("button", name="Cut peer links: web-1").press("Enter")
        expect(page.locator("#parts")).to_contain_text("web-1: up, peer links cut")
        # Until the others count as gone, nobody can say whether it is everywhere: the shop asks people to come again.
        page.get_by_role("button", name="Put in a scarf").click()
        expect(page.locator("#expected")).to_contain_text("1 hat, and perhaps 1 scarf")
        wait_until(lambda: put_in(page, "boots"), "an acknowledged change", seconds=40)
        look_until(page, "Wrong: web-")
        page.get_by_role("button", name="Mend peer links: web-1").press("Enter")
        expect(page.locator("#parts")).not_to_contain_text("cut")
        wait_until(lambda: right_everywhere(page), "the same cart on every server", seconds=40)
        assert complaints == []


def put_in(page: Page, what: str) -> bool:
    """Put it in, and say whether that was acknowledged."""
    page.get_by_role("button", name=f"Put in {what}").click()
    page.wait_for_timeout(1000)
    return bool(page.evaluate(f"'{what}' in state.people[0].expected"))


def right_everywhere(page: Page) -> bool:
    """Whether every server shows the right cart, as far as nine looks tell."""
    seen = set()
    for _ in range(9):
        page.get_by_role("button", name="Look at the cart").press("Enter")
        page.wait_for_timeout(150)
        seen.add(page.evaluate("[state.people[0].server, state.people[0].right].join()"))
    return seen == {"web-1,true", "web-2,true", "web-3,true"}


def test_a_cart_is_lost_with_its_server_and_not_where_all_servers_share_a_store(live: Live) -> None:
    with a_page() as (page, complaints):
        page.goto(live.url)
        ready(page, "sticky")
        page.get_by_role("button", name="Pause the others").click()
        page.get_by_role("button", name="Put in a hat").click()
        page.get_by_role("button", name="Put in a scarf").click()
        expect(page.locator("#seen")).to_have_text("1 hat, 1 scarf")
        expect(page.locator("#verdict")).to_contain_text("Right, says web-")
        mine = page.evaluate("state.people[0].server")
        expect(page.locator("#people tr").first.locator("td").last).to_have_text(mine)

        page.get_by_role("button", name=f"Kill: {mine}").click()
        expect(page.get_by_role("button", name=f"Revive: {mine}")).to_be_enabled()
        page.get_by_role("button", name="Look at the cart").click()
        expect(page.locator("#verdict")).to_contain_text("Wrong: web-")
        expect(page.locator("#seen")).to_have_text("nothing")
        expect(page.locator("#news")).to_contain_text(f"{mine} was killed")
        page.get_by_role("button", name=f"Revive: {mine}").click()
        expect(page.locator("#parts")).to_contain_text(f"{mine}: up")

        # By keyboard alone: the next architecture is one key to the right.
        page.locator("#architectures input:checked").focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("!state.busy && state.architecture !== 'sticky'")
        page.locator("#architectures input[value=redis]").check(force=True)
        ready(page, "redis")
        page.get_by_role("button", name="Put in a hat").press("Enter")
        expect(page.locator("#seen")).to_have_text("1 hat")
        page.get_by_role("button", name="Cut balancer link: web-1").press("Enter")
        expect(page.locator("#parts")).to_contain_text("web-1: up, balancer link cut")
        noticed(page, "web-1")
        page.get_by_role("button", name="Kill: web-2").press("Enter")
        expect(page.locator("#parts")).to_contain_text("web-2: down")
        page.get_by_role("button", name="Look at the cart").press("Enter")
        expect(page.locator("#verdict")).to_have_text("Right, says web-3.")
        expect(page.locator("#people tr").first.locator("td").last).to_have_text("store")
        page.get_by_role("button", name="Mend balancer link: web-1").press("Enter")
        expect(page.locator("#parts")).not_to_contain_text("cut")
        assert page.locator("#stage g.coat").count() == page.evaluate("state.coats.store.length")
        assert complaints == []

        # Ctrl-C: nothing stays, and the page says so.
        assert len(live.processes()) > 4
        os.killpg(live.popen.pid, signal.SIGINT)
        _, said = live.popen.communicate(timeout=20)
        assert live.popen.returncode == 130
        assert "Traceback" not in said
        wait_until(lambda: live.processes() == [], "the end of all that it started")
        expect(page.locator("#busy")).to_have_text("The lab has stopped, or is out of reach.")


@pytest.mark.parametrize(("first", "part"), [("database", "postgres"), ("all-to-all", "shop"), ("redis", "haproxy")])
def test_ctrl_c_while_an_architecture_is_built_leaves_nothing_behind(tmp_path: Path, first: str, part: str) -> None:
    live = Live(tmp_path, first)
    wait_until(lambda: any(part in command_of(pid) for pid in live.processes()), f"the start of {part}", seconds=30)
    os.killpg(live.popen.pid, signal.SIGINT)
    _, said = live.popen.communicate(timeout=30)
    assert live.popen.returncode == 130, said
    assert "Traceback" not in said
    wait_until(lambda: live.processes() == [], "the end of all that it started")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(live.url, timeout=5)
    assert list(tmp_path.iterdir()) == [], "a temporary folder is left"


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""  # gone


def asked(url: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read().decode()


def test_nobody_elses_page_can_press_its_buttons(live: Live) -> None:
    order = json.dumps({"do": "kill", "what": "web-1"}).encode()
    fine = {"content-type": "application/json", "x-coatcheck": "1"}
    assert asked(live.url + "do", {"content-type": "text/plain"}, order) == (403, "Not from another page.")
    assert asked(live.url, {"host": "attacker.example"})[0] == 403
    assert asked(live.url + "do", fine, b"{}")[0] == 400
    assert asked(live.url + "do", fine, json.dumps({"do": "kill", "what": "the king"}).encode())[0] in (400, 409)
    status, page = asked(live.url, {})
    assert status == 200
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page), "it needs nothing from elsewhere"


def test_a_port_that_is_taken_is_a_clear_failure(live: Live, capfd: pytest.CaptureFixture[str]) -> None:
    from coatcheck.cli import main

    port = live.url.rpartition(":")[2].strip("/")
    assert main(["lab", "watch", "--no-browser", "--port", port]) == 3
    assert f"the page cannot be served at port {port}" in capfd.readouterr().err
