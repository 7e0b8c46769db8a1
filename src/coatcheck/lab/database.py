"""Starting a database for one run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coatcheck.lab import postgresql
from coatcheck.lab.errors import LabError
from coatcheck.lab.processes import LOOPBACK, Supervisor, on_free_port
from coatcheck.lab.settings import Store

_PATIENCE = 30.0  # seconds that a database may take to start


def start(
    supervisor: Supervisor, store: Store, parts: dict[str, Path], folder: Path, temporary: Callable[[Path], Any]
) -> str:
    """Start an empty database, wait until it answers, and give the URL of a store in it.

    Args:
        supervisor: whose process it becomes.
        store: which one.
        parts: the programs, by name.
        folder: of this architecture's run.
        temporary: is told of a folder that is to be removed when all processes have ended.
    """
    from coatcheck.stores.sql import SyncSQLStore

    if store == "sqlite":
        url = f"sqlite:///{folder.resolve()}/sessions.db"
    elif store == "mariadb":
        url = _mariadb(supervisor, parts["mariadb"], folder)
    else:
        place = postgresql.new_folder()
        temporary(place)
        url = _postgresql(supervisor, postgresql.initialise(parts["postgresql"], place), place)
    # As one does before anybody comes: the first visitors need not wait for it.
    tables = SyncSQLStore.from_url(url)
    tables.create_tables(timeout=_PATIENCE)
    tables.close()
    return url


def _postgresql(supervisor: Supervisor, program: Path, place: Path) -> str:
    import psycopg

    def folder_of(url: str) -> str | None:
        try:
            with psycopg.connect(url, connect_timeout=2) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.Error:
            return None
        return None if row is None else str(row[0])

    def on(port: int) -> str:
        command = postgresql.command(program, place, port)
        process = supervisor.start("postgresql", command, user=postgresql.unprivileged())
        url = f"postgresql://{postgresql.USER}@{LOOPBACK}:{port}/postgres"
        try:
            # Its folder proves that it is ours that answers, and not somebody who took the port first.
            supervisor.wait_until(
                lambda: folder_of(url) == str(place / "data"), seconds=_PATIENCE, what="the start of PostgreSQL"
            )
        except BaseException:
            supervisor.forget(process)
            raise
        return url

    return on_free_port(on)


def _mariadb(supervisor: Supervisor, program: Path, folder: Path) -> str:
    import pymysql

    data = folder.resolve() / "mariadb"
    user = ["--user=root"] if os.geteuid() == 0 else []
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *user]
    install.append("--auth-root-authentication-method=normal")
    try:
        done = subprocess.run(install, capture_output=True, check=False)
    except OSError as missing:
        raise LabError(f"mariadb-install-db cannot be run: {missing.strerror}") from None
    if done.returncode:
        raise LabError(f"mariadb-install-db failed: {done.stderr.decode(errors='replace').strip()}")
    (folder / "begin.sql").write_text("CREATE DATABASE IF NOT EXISTS lab;\n")

    def folder_of(port: int) -> str | None:
        try:
            with (
                pymysql.connect(host=LOOPBACK, port=port, user="root", database="lab", connect_timeout=2) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("SELECT @@datadir")
                row: Any = cursor.fetchone()
        except (pymysql.Error, OSError):
            return None
        return str(row[0]).rstrip("/")

    def on(port: int) -> str:
        command = [str(program), "--no-defaults", f"--datadir={data}", f"--port={port}", f"--bind-address={LOOPBACK}"]
        # No socket in the folder of the run: its path may be too long for one.
        command += [f"--init-file={folder.resolve() / 'begin.sql'}", "--socket=", "--skip-name-resolve", *user]
        process = supervisor.start("mariadb", command)
        try:
            supervisor.wait_until(lambda: folder_of(port) == str(data), seconds=_PATIENCE, what="the start of MariaDB")
        except BaseException:
            supervisor.forget(process)
            raise
        return f"mariadb://root@{LOOPBACK}:{port}/lab"

    return on_free_port(on)
