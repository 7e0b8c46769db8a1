"""A MariaDB of the tests' own, from the machine's package `mariadb-server` (or `mariadb-server-core`)."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pymysql

from tests.servers.database import Database
from tests.servers.processes import LOOPBACK


def mariadb_program() -> str | None:
    """The server, if the machine has it.

    With `COATCHECK_REQUIRE_SERVERS=1`, as in CI, a missing one is an error rather than some tests fewer.
    """
    found = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None and os.environ.get("COATCHECK_REQUIRE_SERVERS") == "1":
        raise RuntimeError("COATCHECK_REQUIRE_SERVERS=1, and there is no mariadbd: install mariadb-server-core")
    return found


_USER = ["--user=root"] if os.geteuid() == 0 else []


@cache
def _new_data() -> Path:
    """The data of a server that has never been started. It takes some time to make, so all begin with copies of one."""
    folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = ["mariadb-install-db", "--no-defaults", f"--datadir={folder / 'data'}", "--skip-test-db"]
    command += ["--auth-root-authentication-method=normal", *_USER]
    done = subprocess.run(command, capture_output=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return folder / "data"


class MariaDB(Database):
    """See `Database`."""

    name = "MariaDB"

    def __enter__(self) -> MariaDB:
        self.start()
        return self

    @property
    def url(self) -> str:
        return f"mariadb://root@{LOOPBACK}:{self.port}/coatcheck?create=true"

    def connect(self, database: str | None = "coatcheck") -> Any:
        """An administrator's connection."""
        where: dict[str, Any] = {"host": LOOPBACK, "port": self.port, "database": database}
        return pymysql.connect(user="root", autocommit=True, connect_timeout=10, **where)

    def __call__(self, sql: str, *values: Any, database: str | None = "coatcheck") -> list[tuple[Any, ...]]:
        """Execute one statement, as an administrator would."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall())

    def _prepare(self) -> None:
        # A socket's path may have 107 characters, and pytest's folders are deep.
        self.folder = Path(tempfile.mkdtemp(prefix="coatcheck-"))
        shutil.copytree(_new_data(), self.folder / "data")
        (self.folder / "begin.sql").write_text("CREATE DATABASE IF NOT EXISTS coatcheck;\n")

    def _command(self) -> tuple[list[str], int | None]:
        program = mariadb_program()
        assert program is not None
        options = (
            "--no-defaults", f"--datadir={self.folder / 'data'}", f"--socket={self.folder / 'socket'}",
            f"--port={self.port}", f"--bind-address={LOOPBACK}", f"--init-file={self.folder / 'begin.sql'}",
            f"--pid-file={self.folder / 'pid'}", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M",
            # Nothing here survives the machine, only the process; so that nothing need wait for a disk.
            "--innodb-flush-log-at-trx-commit=2", "--skip-name-resolve", *_USER,
        )  # fmt: skip
        return [program, *options], None

    def _answers(self) -> bool:
        try:
            # Its folder proves that it is ours that answers, and not somebody who took the port first.
            [(folder,)] = self("SELECT @@datadir", database=None)
            databases = self("SHOW DATABASES LIKE 'coatcheck'", database=None)
        except (pymysql.Error, OSError):
            return False
        return str(folder).rstrip("/") == str(self.folder / "data") and bool(databases)
