"""The stores in databases: the contract on real servers, with asynchronous and synchronous drivers and with own engines."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from coatcheck.stores.sql import SQLStore, SyncSQLStore
from coatcheck.testing import AsyncStoreContract, SyncStoreContract
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

Administrator = Callable[..., Any]
"""Executes one statement, beside the store."""

PATIENT = "&timeout=20"  # a busy machine is no reason to fail


class _Damage:
    """How records come to be none. The types of the columns leave little to go wrong."""

    administrator: Administrator

    def corruptions(self, store: Any) -> Iterable[Callable[[str], Awaitable[None]]]:
        def way(version: int, operations: str) -> Callable[[str], Awaitable[None]]:
            async def corrupt(session_id: str) -> None:
                now = int(time.time() * 1000)
                self.administrator(
                    "INSERT INTO coatcheck_sessions (id, secret_hash, version, created_ms, renewed_ms, touched_ms, idle_ms, "
                    f"previous_until_ms, operations, expires_ms, sweep_hour) VALUES ('{session_id}', 'x', {version}, "
                    f"{now}, {now}, {now}, 1000000, 0, '{operations}', {now + 1_000_000}, 1000000)"
                )

            return corrupt

        yield way(0, "")
        yield way(-1, "12345678")
        yield way(1, "1234567")


class _FewHistories(SyncStoreContract):
    """The synchronous stores take the very steps of the asynchronous ones, which are held against many histories."""

    def test_any_history_goes_as_the_model_says(self) -> None:
        usual = settings.get_current_profile_name()
        settings.register_profile("few", settings.get_profile(usual), max_examples=20)
        settings.load_profile("few")
        try:
            super().test_any_history_goes_as_the_model_says()
        finally:
            settings.load_profile(usual)


class OnPostgreSQL(_Damage):
    @pytest.fixture(autouse=True)
    def server(self, postgresql: PostgreSQL) -> None:
        self.administrator = postgresql
        self.url = postgresql.url + PATIENT
        self.plain_url = postgresql.plain_url


class TestPostgreSQL(OnPostgreSQL, AsyncStoreContract):
    def open_store(self) -> SQLStore:
        return SQLStore.from_url(self.url)


class TestPostgreSQLSync(OnPostgreSQL, _FewHistories):
    def open_store(self) -> SyncSQLStore:
        return SyncSQLStore.from_url(self.url)


class OnMariaDB(_Damage):
    @pytest.fixture(autouse=True)
    def server(self, mariadb: MariaDB) -> None:
        self.administrator = mariadb
        self.url = mariadb.url + PATIENT


class TestMariaDB(OnMariaDB, AsyncStoreContract):
    def open_store(self) -> SQLStore:
        return SQLStore.from_url(self.url)


class TestMariaDBSync(OnMariaDB, _FewHistories):
    def open_store(self) -> SyncSQLStore:
        return SyncSQLStore.from_url(self.url)


class OnSQLite(_Damage):
    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/sessions.db?durability=delayed{PATIENT}"

        def administrator(sql: str) -> None:
            with sqlite3.connect(tmp_path / "sessions.db", timeout=10, isolation_level=None) as connection:
                connection.execute(sql)
            connection.close()

        self.administrator = administrator


class TestSQLite(OnSQLite, AsyncStoreContract):
    def open_store(self) -> SQLStore:
        return SQLStore.from_url(self.url)


class TestSQLiteSync(OnSQLite, _FewHistories):
    def open_store(self) -> SyncSQLStore:
        return SyncSQLStore.from_url(self.url)
