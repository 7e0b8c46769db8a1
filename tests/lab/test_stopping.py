"""Whenever and however the lab is stopped, it leaves no process and no open port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coatcheck.lab.history import FILE as HISTORY

from .labs import SMALL, Lab, start_lab

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes and ports in /proc")


@pytest.fixture
def labs(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    started: list[Lab] = []

    def start(*options: str) -> Lab:
        started.append(start_lab(tmp_path / f"runs-{len(started)}", *options))
        return started[-1]

    yield start
    for lab in started:
        lab.popen.kill()
        lab.popen.communicate()


def listening(processes: set[int]) -> dict[str, str]:
    """The TCP sockets on which these processes listen: socket to address, as /proc writes it (hex, port after `:`)."""
    sockets = set()
    for pid in processes:
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        sockets |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found[fields[9]] = fields[1]
    return found


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def assert_nothing_left(lab: Lab, ports: set[int]) -> None:
    assert lab.processes() == set()
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is still open"
    ended = {record.pid for record in lab.records() if record.event == "ended"}
    assert {record.pid for record in lab.records() if record.event == "started"} == ended


def history_has(lab: Lab, word: bytes) -> bool:
    file = lab.run / "redis" / HISTORY
    return file.exists() and word in file.read_bytes()


MOMENTS: dict[str, Callable[[Lab], bool]] = {
    "at once": lambda lab: lab.run.exists(),
    "while Valkey starts": lambda lab: lab.started("valkey"),
    "while web servers start": lambda lab: lab.started("web-1"),
    "while HAProxy starts": lambda lab: lab.started("haproxy"),
    "while the shoppers get ready": lambda lab: lab.started("shoppers"),
    "under traffic": lambda lab: history_has(lab, b'"operation"'),
    "after the kill": lambda lab: history_has(lab, b'"killed"'),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_leaves_nothing_behind(labs: Callable[..., Lab], moment: str) -> None:
    lab = labs(*SMALL, "--only", "redis")
    lab.wait_for(lambda: MOMENTS[moment](lab))
    ports = {port_of(address) for address in listening(lab.processes()).values()}
    # To the whole process group, as a terminal does it.
    os.killpg(lab.popen.pid, signal.SIGINT)
    _, said = lab.end()
    assert lab.popen.returncode == 130
    assert "Traceback" not in said
    assert "The lab was stopped with Ctrl-C" in said
    assert str(lab.runs) in said.replace("\n", "")
    assert not (lab.runs / "latest").exists()
    assert_nothing_left(lab, ports)


EXPERIMENTS: dict[str, Callable[[Lab], bool]] = {
    "in a crowd": lambda lab: (lab.run / "redis" / "crowding-1.jsonl").exists(),
    "while architectures grow": lambda lab: any((lab.run / "growth").glob("all-to-all-4/logs/driver.log")),
}


def child(lab: Lab, program: str) -> bool:
    """Whether the lab has started this program, which it takes no note of."""
    children = Path(f"/proc/{lab.popen.pid}/task/{lab.popen.pid}/children").read_text().split()
    try:
        return any(program in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[0] for pid in children)
    except OSError:
        return False


OTHER_PARTS: dict[str, tuple[str, Callable[[Lab], bool]]] = {
    "while PostgreSQL's files are made": ("database", lambda lab: child(lab, "initdb")),
    "while PostgreSQL starts": ("database", lambda lab: lab.started("database")),
    "while web servers connect to it": ("database", lambda lab: lab.started("web-1")),
    "while servers join one another": ("all-to-all", lambda lab: lab.started("web-3")),
}


@pytest.mark.parametrize("moment", OTHER_PARTS)
def test_ctrl_c_leaves_nothing_behind_of_other_parts_either(
    labs: Callable[..., Lab], moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database keeps its files in a temporary folder, since a run's may not be open to its user."""
    # Not below pytest's own folder, which only its owner may enter; PostgreSQL runs as somebody else.
    scratch = Path(tempfile.mkdtemp(prefix="lab-", dir="/var/tmp"))
    scratch.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(scratch))
    try:
        architecture, reached = OTHER_PARTS[moment]
        lab = labs(*SMALL, "--only", architecture)
        lab.wait_for(lambda: reached(lab))
        ports = {port_of(address) for address in listening(lab.processes()).values()}
        os.killpg(lab.popen.pid, signal.SIGINT)
        _, said = lab.end(30)
        assert "Traceback" not in said
        assert lab.popen.returncode == 130, said
        assert_nothing_left(lab, ports)
        assert list(scratch.iterdir()) == [], "a temporary folder is left"
    finally:
        shutil.rmtree(scratch)


@pytest.mark.parametrize("moment", EXPERIMENTS)
def test_ctrl_c_leaves_nothing_behind_in_the_other_experiments(labs: Callable[..., Lab], moment: str) -> None:
    lab = labs("--quick", "--only", "redis,all-to-all")
    lab.wait_for(lambda: EXPERIMENTS[moment](lab), seconds=90)
    ports = {port_of(address) for address in listening(lab.processes()).values()}
    os.killpg(lab.popen.pid, signal.SIGINT)
    _, said = lab.end()
    assert lab.popen.returncode == 130
    assert "Traceback" not in said
    assert not (lab.run / "report.html").exists()
    assert len(ports) >= 5
    assert_nothing_left(lab, ports)


def test_ctrl_c_again_and_again_changes_nothing(labs: Callable[..., Lab]) -> None:
    lab = labs(*SMALL, "--only", "redis")
    lab.wait_for(lambda: history_has(lab, b'"operation"'))
    while lab.popen.poll() is None:
        os.killpg(lab.popen.pid, signal.SIGINT)
        time.sleep(0.02)
    _, said = lab.end()
    assert lab.popen.returncode == 130
    assert "Traceback" not in said
    assert_nothing_left(lab, set())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_ways_to_say_stop_do_the_same(labs: Callable[..., Lab], number: signal.Signals, code: int) -> None:
    lab = labs(*SMALL, "--only", "sticky")
    lab.wait_for(lambda: lab.started("shoppers"))
    lab.popen.send_signal(number)
    _, said = lab.end()
    assert lab.popen.returncode == code
    assert f"stopped by {number.name}" in said
    assert_nothing_left(lab, set())


def test_even_when_the_lab_itself_is_killed_nothing_stays(labs: Callable[..., Lab]) -> None:
    lab = labs(*SMALL, "--only", "redis")
    lab.wait_for(lambda: history_has(lab, b'"operation"'))
    assert len(lab.processes()) == 6  # Valkey, three web servers, HAProxy, the shoppers
    lab.popen.kill()
    lab.end()
    until = time.monotonic() + 5
    while lab.processes():
        assert time.monotonic() < until, "processes outlived the lab"
        time.sleep(0.01)


def test_when_a_part_breaks_the_lab_says_which_and_stops_the_rest(labs: Callable[..., Lab]) -> None:
    lab = labs(*SMALL, "--only", "redis")
    lab.wait_for(lambda: history_has(lab, b'"operation"'))
    valkey = next(record.pid for record in lab.records() if record.name == "valkey")
    os.kill(valkey, signal.SIGKILL)
    _, said = lab.end()
    assert lab.popen.returncode == 3
    assert "valkey was ended by SIGKILL, and nobody had asked it to" in said
    assert "valkey.log" in said
    assert "Traceback" not in said
    assert_nothing_left(lab, set())


def test_when_the_shoppers_break_the_run_is_not_judged(labs: Callable[..., Lab]) -> None:
    lab = labs(*SMALL, "--only", "local")
    lab.wait_for(lambda: lab.started("shoppers"))
    shoppers = next(record.pid for record in lab.records() if record.name == "shoppers")
    os.kill(shoppers, signal.SIGKILL)
    said, complaint = lab.end()
    assert lab.popen.returncode == 3
    assert "shoppers" in complaint
    assert said == ""
    assert_nothing_left(lab, set())


def test_while_it_runs_everything_listens_on_the_loopback_address_only(labs: Callable[..., Lab]) -> None:
    lab = labs(*SMALL, "--only", "redis")
    lab.wait_for(lambda: history_has(lab, b'"operation"'))
    addresses = list(listening(lab.processes()).values())
    assert len(addresses) == 5  # Valkey, three web servers, HAProxy
    assert {address.partition(":")[0] for address in addresses} == {"0100007F"}  # 127.0.0.1
    lab.popen.send_signal(signal.SIGINT)
    lab.end()
