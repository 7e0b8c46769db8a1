"""A PostgreSQL of the tests' own, from a wheel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psycopg

from coatcheck.lab import postgresql, programs
from tests.servers.database import Database
from tests.servers.processes import LOOPBACK

# Nothing here survives the machine, only the process; so that nothing need wait for a disk.
_SETTINGS = ("fsync=off", "shared_buffers=32MB", "max_connections=80", "wal_level=minimal", "max_wal_senders=0")


class PostgreSQL(Database):
    """See `Database`.

    Args:
        settings: more of the server's own, such as `max_connections=5`.
    """

    name = "PostgreSQL"

    def __init__(self, *settings: str) -> None:
        super().__init__()
        self._settings = settings
        self._program = programs.postgresql(None)

    def __enter__(self) -> PostgreSQL:
        self.start()
        return self

    @property
    def plain_url(self) -> str:
        return f"postgresql://{postgresql.USER}@{LOOPBACK}:{self.port}/postgres"

    @property
    def url(self) -> str:
        return f"{self.plain_url}?create=true"

    def connect(self) -> psycopg.Connection[Any]:
        """An administrator's connection."""
        return psycopg.connect(self.plain_url, autocommit=True, connect_timeout=10)

    def __call__(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Execute one statement, as an administrator would."""
        with self.connect() as connection:
            cursor = connection.execute(sql.encode(), values or None)
            return [] if cursor.description is None else cursor.fetchall()

    def _prepare(self) -> None:
        self.folder = postgresql.new_folder()
        try:
            self._program = postgresql.initialise(self._program, self.folder)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _command(self) -> tuple[list[str], int | None]:
        command = postgresql.command(Path(self._program), self.folder, self.port, *_SETTINGS, *self._settings)
        return command, postgresql.unprivileged()

    def _answers(self) -> bool:
        try:
            # Its folder proves that it is ours that answers, and not somebody who took the port first.
            [(folder,)] = self("SHOW data_directory")
        except psycopg.Error:
            return False
        return bool(folder == str(self.folder / "data"))
