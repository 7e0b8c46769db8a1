"""coatcheck: web sessions that stay right and fast from one process to a fleet of servers.

You hand your coat over once and keep a small ticket. Whichever attendant you meet next, the ticket finds your coat.
"""

from coatcheck.manager import AsyncSession, SessionManager
from coatcheck.maps import FieldMap
from coatcheck.session import Session
from coatcheck.settings import AAL1, AAL2, AAL3, CookieSettings, Settings
from coatcheck.stores.opening import open_store, open_sync_store
from coatcheck.sync_manager import SyncSession, SyncSessionManager

__version__ = "0.1.0"

__all__ = [
    "AAL1",
    "AAL2",
    "AAL3",
    "AsyncSession",
    "CookieSettings",
    "FieldMap",
    "Session",
    "SessionManager",
    "Settings",
    "SyncSession",
    "SyncSessionManager",
    "__version__",
    "open_store",
    "open_sync_store",
]
