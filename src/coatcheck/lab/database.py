"""Starting a database for one run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, LiteralString

from coatcheck.lab import postgresql
from coatcheck.lab.errors import LabError
from coatcheck.lab.processes import LOOPBACK, Process, Supervisor, on_free_port
from coatcheck.lab.running import Running

_PATIENCE = 30.0  # seconds that a database may take to start


def start(supervisor: Supervisor, programs: Mapping[str, Path], folder: Path) -> Running:
    """Start an empty database, wait until it answers, and make its tables.

    Args:
        supervisor: whose process it becomes.
        programs: the run's, by name. Which of the databases' is among them says which is meant; SQLite if there is none.
        folder: of this architecture's run.
    """
    from coatcheck.stores.sql import SyncSQLStore

    if "postgresql" in programs:
        found = _postgresql(supervisor, programs["postgresql"])
    elif "mariadb" in programs:
        found = _mariadb(supervisor, programs["mariadb"], folder)
    else:
        found = _sqlite(folder)
    # As one does before anybody comes: the first visitors need not wait for it.
    tables = SyncSQLStore.from_url(found.url)
    tables.create_tables(timeout=_PATIENCE)
    tables.close()
    return found


def _sqlite(folder: Path) -> Running:
    file = folder.resolve() / "sessions.db"

    def files() -> list[Path]:
        return list(file.parent.glob(f"{file.name}*"))

    def tidy() -> None:
        for each in files():
            each.unlink(missing_ok=True)

    tidy()
    return Running(
        url=f"sqlite:///{file}",
        process=None,
        kept_bytes=lambda: sum(each.stat().st_size for each in files()),
        tidy=tidy,
    )


def _postgresql(supervisor: Supervisor, program: Path) -> Running:
    import psycopg

    place = postgresql.new_folder()

    def tidy() -> None:
        shutil.rmtree(place, ignore_errors=True)

    def url(port: int) -> str:
        return f"postgresql://{postgresql.USER}@{LOOPBACK}:{port}/postgres"

    def asked(port: int, question: LiteralString) -> Any:
        try:
            with psycopg.connect(url(port), connect_timeout=2) as connection:
                row = connection.execute(question).fetchone()
        except psycopg.Error:
            return None
        return None if row is None else row[0]

    def on(port: int) -> int:
        supervisor.serve(
            "database",
            postgresql.command(program, place, port),
            # Its folder proves that it is ours that answers, and not somebody who took the port first.
            lambda _process: asked(port, "SHOW data_directory") == str(place / "data"),
            seconds=_PATIENCE,
            what="PostgreSQL",
            user=postgresql.unprivileged(),
        )
        return port

    def again() -> Process:
        on(port)
        return supervisor.named("database")

    try:
        program = postgresql.initialise(program, place)
        port = on_free_port(on)
    except BaseException:
        tidy()
        raise
    return Running(
        url=url(port),
        process=supervisor.named("database"),
        kept_bytes=lambda: int(asked(port, "SELECT pg_database_size(current_database())") or 0),
        again=again,
        tidy=tidy,
    )


def _mariadb(supervisor: Supervisor, program: Path, folder: Path) -> Running:
    import pymysql

    data = folder.resolve() / "mariadb"
    shutil.rmtree(data, ignore_errors=True)
    user = ["--user=root"] if os.geteuid() == 0 else []
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *user]
    install.append("--auth-root-authentication-method=normal")
    try:
        done = subprocess.run(install, capture_output=True, check=False, start_new_session=True)
    except OSError as missing:
        raise LabError(f"mariadb-install-db cannot be run: {missing.strerror}") from None
    if done.returncode:
        raise LabError(f"mariadb-install-db failed: {done.stderr.decode(errors='replace').strip()}")
    (folder / "begin.sql").write_text("CREATE DATABASE IF NOT EXISTS lab;\n")

    def asked(port: int, question: str) -> Any:
        try:
            with (
                pymysql.connect(host=LOOPBACK, port=port, user="root", database="lab", connect_timeout=2) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute(question)
                row: Any = cursor.fetchone()
        except (pymysql.Error, OSError):
            return None
        return row[0]

    def on(port: int) -> int:
        command = [str(program), "--no-defaults", f"--datadir={data}", f"--port={port}", f"--bind-address={LOOPBACK}"]
        # No socket in the folder of the run: its path may be too long for one.
        command += [f"--init-file={folder.resolve() / 'begin.sql'}", "--socket=", "--skip-name-resolve", *user]
        supervisor.serve(
            "database",
            command,
            lambda _process: str(asked(port, "SELECT @@datadir")).rstrip("/") == str(data),
            seconds=_PATIENCE,
            what="MariaDB",
        )
        return port

    def again() -> Process:
        on(port)
        return supervisor.named("database")

    port = on_free_port(on)
    return Running(
        url=f"mariadb://root@{LOOPBACK}:{port}/lab",
        process=supervisor.named("database"),
        kept_bytes=lambda: int(asked(port, _MARIADB_BYTES) or 0),
        again=again,
        tidy=lambda: shutil.rmtree(data, ignore_errors=True),
    )


_MARIADB_BYTES = "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = 'lab'"
