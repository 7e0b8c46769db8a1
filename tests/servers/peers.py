"""Peers of an all-to-all cluster, each a process of its own; see `tests.promises.peer`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from coatcheck.lab import tether
from tests.servers.processes import ROOT


class PeerProcess:
    """A running peer that does what it is told. It ends with pytest, even if pytest is killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, url: str, *, before: Sequence[str] = (), ahead: float = 0.0) -> PeerProcess:
        """Start one.

        Args:
            url: its store's.
            before: what to put before the command, as for another host.
            ahead: seconds by which its system's clock is ahead.
        """
        program = [*before, sys.executable, "-m", "tests.promises.peer", url, str(ahead)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *program,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, limit=1 << 26,
        )  # fmt: skip
        return cls(process)

    async def __call__(self, do: str, **arguments: Any) -> Any:
        """Tell it to do something, and give its answer; raise if that is an error."""
        async with self._turn, asyncio.timeout(120):
            stdin, stdout = self.process.stdin, self.process.stdout
            assert stdin is not None
            assert stdout is not None
            stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            await stdin.drain()
            line = await stdout.readline()
        assert line, f"the peer has ended, when it was told to {do}"
        answer = json.loads(line)
        assert "error" not in answer, f"{do}: {answer['error']}"
        return answer["answer"]

    async def kill(self) -> None:
        """kill -9."""
        if self.process.returncode is None:
            self.process.kill()
        await self._over()

    async def stop(self) -> None:
        """Let it leave the others, and end."""
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                async with asyncio.timeout(10):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
        await self._over()

    async def _over(self) -> None:
        await self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        transport = getattr(self.process, "_transport", None)
        if transport is not None:  # or its pipes would be closed when nobody expects it any more
            transport.close()
        await asyncio.sleep(0)


async def agreement(peers: Sequence[PeerProcess], seconds: float = 20) -> None:
    """Wait until all hold the same."""
    async with asyncio.timeout(seconds):
        while len({(await peer("look"))["digest"] for peer in peers}) > 1:
            await asyncio.sleep(0.05)
