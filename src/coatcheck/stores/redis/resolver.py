"""The addresses of a host, looked up without making anybody wait longer than they want to.

The system's look-up knows no time limit, so a thread has to wait for it: one of its own, since those of an event loop's
executor may all be busy with the application's work, and one for each host at most, however often it is asked for while
the answer does not come.
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeAlias

from coatcheck.stores.redis.forking import tell_when_forked

Found: TypeAlias = list[Any]
"""What `socket.getaddrinfo` gives: family, type, protocol, name and address, each as `socket` takes it."""


class Resolver:
    """Looks up hosts, for any thread and event loop of a process."""

    def __init__(self) -> None:
        self.forked()
        tell_when_forked(self)

    def forked(self) -> None:
        """See `forking`. The parent's threads are not here."""
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], Future[Found]] = {}

    def look_up(self, host: str, port: int) -> Future[Found]:
        """The addresses of a host, in the order in which to try them. An IP address asks nobody.

        The future cannot be cancelled, since others may wait for it too. It may come to `OSError` or `UnicodeError`.

        Raises:
            RuntimeError: no thread can be had.
        """
        with suppress(socket.gaierror):
            numeric: Future[Found] = Future()
            numeric.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
            return numeric
        with self._lock:
            answer = self._under_way.get((host, port))
            if answer is None:
                answer = Future()
                answer.set_running_or_notify_cancel()
                thread = threading.Thread(
                    target=self._ask, args=(host, port, answer), name=f"coatcheck looks up {host}", daemon=True
                )
                thread.start()
                self._under_way[host, port] = answer
            return answer

    def _ask(self, host: str, port: int, answer: Future[Found]) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:
            self._forget(host, port)
            answer.set_exception(error)
        else:
            self._forget(host, port)
            answer.set_result(found)

    def _forget(self, host: str, port: int) -> None:
        with self._lock:
            self._under_way.pop((host, port), None)


resolver = Resolver()
