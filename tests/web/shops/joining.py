"""gunicorn's settings for a shop on a store that joins others: each worker does so before it serves."""

from __future__ import annotations

from typing import Any


def post_worker_init(worker: Any) -> None:
    shop = worker.wsgi
    shop.session_interface.manager_of(shop).store.start()
