"""Several hosts on one machine, with a network between them that can be cut: network namespaces around a bridge."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from types import TracebackType


class Hosts:
    """A context manager. Needs root and the command `ip` (Debian's iproute2); it removes what it made.

    Args:
        count: how many hosts. They are 10.77.0.1 and so on.
    """

    def __init__(self, count: int) -> None:
        name = f"cc{secrets.token_hex(3)}"
        self._switch = f"{name}-s"
        self._names = [f"{name}-{number}" for number in range(count)]
        self._folders = [Path("/etc/netns") / name for name in self._names]
        self._called: dict[str, tuple[int, ...]] = {}
        self._made: list[str] = []

    @staticmethod
    def missing() -> str:
        """Why there can be none here, or `""`."""
        if shutil.which("ip") is None:
            return "the command ip is missing: apt-get install iproute2"
        probe = f"cc{secrets.token_hex(3)}-p"
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
        if made.returncode:
            return f"no network namespaces: {made.stderr.strip()}"
        _ip("netns", "delete", probe)
        return ""

    def __enter__(self) -> Hosts:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, host: int) -> str:
        return f"10.77.0.{host + 1}"

    def command(self, host: int) -> list[str]:
        """What to put before a command for it to run on this host."""
        return [shutil.which("ip") or "ip", "netns", "exec", self._names[host]]

    def cut(self, host: int) -> None:
        """Pull this host's cable."""
        _ip("-n", self._switch, "link", "set", f"port{host}", "down")

    def heal(self, host: int) -> None:
        """Plug it in again."""
        _ip("-n", self._switch, "link", "set", f"port{host}", "up")

    def cut_between(self, one: int, other: int) -> None:
        """Let two hosts not hear each other any more, whereas all others hear both."""
        for here, there in ((one, other), (other, one)):
            _ip("-n", self._names[here], "route", "add", "blackhole", f"{self.address(there)}/32")

    def heal_between(self, one: int, other: int) -> None:
        """Let them."""
        for here, there in ((one, other), (other, one)):
            _ip("-n", self._names[here], "route", "delete", "blackhole", f"{self.address(there)}/32")

    def call(self, name: str, *hosts: int) -> None:
        """Let a name stand for the addresses of these hosts, on all of them, in place of what it stood for."""
        self._called[name] = hosts
        lines = [f"{self.address(host)} {name}\n" for name, hosts in self._called.items() for host in hosts]
        for folder in self._folders:
            (folder / "hosts").write_text("".join(lines))  # in place: it is the file that their processes have open

    def _build(self) -> None:
        for name in (self._switch, *self._names):
            _ip("netns", "add", name)
            self._made.append(name)
        for folder in self._folders:  # `ip netns exec` puts what is in there in the place of /etc
            folder.mkdir(parents=True)
        self.call("localhost")
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for host, name in enumerate(self._names):
            port = f"port{host}"
            _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self._switch, "link", "set", port, "master", "bridge")
            _ip("-n", self._switch, "link", "set", port, "up")
            _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", name, "link", "set", device, "up")

    def _remove(self) -> None:
        while self._made:
            _ip("netns", "delete", self._made.pop())
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def hosts_are_required() -> bool:
    """Whether their lack is an error, as in CI."""
    return os.environ.get("COATCHECK_REQUIRE_SERVERS") == "1"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
