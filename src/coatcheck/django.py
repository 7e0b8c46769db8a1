"""Sessions for Django, at `request.session`: `SESSION_ENGINE = "coatcheck.django"`."""

# Django's attributes are properties here, which is what its own are meant to be used as.
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from functools import cache, lru_cache
from threading import Lock
from typing import Any, TypeVar

from django.conf import settings as django_settings
from django.contrib.sessions import middleware
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.utils.module_loading import import_string

from coatcheck.cookie import SEEN, TARGETED_CACHE_FIELDS
from coatcheck.errors import CoatcheckError, ConfigurationError, InsecureCookieWarning, SessionExists, SessionGone
from coatcheck.manager import ManagedSession, SessionManager
from coatcheck.maps import FieldMap
from coatcheck.observers.logs import log
from coatcheck.responses import REFUSALS, answer_to
from coatcheck.settings import LONGEST_MS, CookieSettings, Settings
from coatcheck.stores.interface import AsyncStore, AsyncSweeping, SyncSweeping
from coatcheck.stores.memory import AsyncMemoryStore, MemoryStore
from coatcheck.stores.opening import open_store
from coatcheck.sync_manager import SyncSessionManager, at_once
from coatcheck.ticket import Ticket

__all__ = ["SessionMiddleware", "SessionStore", "aready", "ready", "session_manager", "session_settings"]

T = TypeVar("T")

_OPTIONS = {"store", "async_store", "absolute_timeout", "store_timeout", "codec", "observers"}
_USER = "_auth_user_id"  # where django.contrib.auth keeps whose session it is
_DEFAULT_SERIALIZER = "django.contrib.sessions.serializers.JSONSerializer"


class SessionStore(SessionBase):
    """Django's session, kept field by field in a store. All that Django's documentation says of sessions holds.

    Besides, values that are changed in place are noticed, and two requests that change different keys both count. The
    session's key is its ticket: the store knows no more than a hash of it, and what may be logged is `session_id`.

    Attributes:
        trouble: why the store or the session could not be had, when that was so.
        saved_ahead: whether the next `save()` has been done already, by `SessionMiddleware`.
    """

    trouble: CoatcheckError | None = None
    saved_ahead = False

    def __init__(self, session_key: str | None = None) -> None:
        # Not the base's own, which looks up SESSION_SERIALIZER each time.
        self._engine = _engine()
        self.accessed = False
        self._changed = False
        self._session_key = session_key

    @property
    def serializer(self) -> Any:
        """For `encode` and `decode`, which are of no use here: the store has an encoding of its own."""
        return import_string(django_settings.SESSION_SERIALIZER)

    # --- what Django's own methods work on ---------------------------------------------------------------------------

    def _get_session(self, no_load: bool = False) -> Any:
        self.accessed = True
        if not self._stored.loaded:
            self._sync(self._engine.sync.shared.load(self._stored))
        return self._stored

    async def _aget_session(self, no_load: bool = False) -> Any:
        self.accessed = True
        if not self._stored.loaded:
            await self._async(self._engine.here().load(self._stored))
        return self._stored

    _session = property(_get_session)

    @property
    def _session_cache(self) -> Any:
        if not self._stored.loaded:
            raise AttributeError("the session has not been loaded")
        return self._stored

    def _get_session_key(self) -> str | None:
        stored = self._stored
        known = stored.session_id is not None or not stored.loaded or self._promised
        return stored.ticket.cookie_value if known and stored.ticket is not None else None

    def _set_session_key(self, value: str | None) -> None:
        self._stored = self._engine.session(value)
        self._promised = False  # whether the key of a session that has not been stored yet has been told

    session_key = property(_get_session_key)
    _session_key = property(_get_session_key, _set_session_key)

    @property
    def modified(self) -> bool:
        """Whether there is something to save; what was changed in place counts."""
        return self._changed or bool(self._stored.delta())

    @modified.setter
    def modified(self, value: bool) -> None:
        self._changed = value

    def is_empty(self) -> bool:
        """Whether there is neither a key nor anything in it. If so, Django takes the cookie back."""
        if self.trouble is not None:
            return False  # whether the session has ended is not known, so its cookie is not touched
        return not self._session_key and not (self._stored.loaded and self._stored)

    # --- what is there beyond Django's own ---------------------------------------------------------------------------

    @property
    def session_id(self) -> str | None:
        """What names the session in the store and in logs, and opens nothing; `None` until it has been saved."""
        session_id: str | None = self._session.session_id
        return session_id

    def increment(self, key: str, by: int = 1) -> int:
        """Add `by` to an integer, exactly, however many requests do so at once; see `coatcheck.Session.increment`."""
        total: int = self._session.increment(key, by)
        return total

    async def aincrement(self, key: str, by: int = 1) -> int:
        """See `increment`."""
        total: int = (await self._aget_session()).increment(key, by)
        return total

    def map(self, name: str) -> FieldMap:
        """A map whose entries are fields of their own, so that none gets lost; see `coatcheck.Session.map`."""
        found: FieldMap = self._session.map(name)
        return found

    async def amap(self, name: str) -> FieldMap:
        """See `map`. The map itself is used without `await`: all of it is there."""
        found: FieldMap = (await self._aget_session()).map(name)
        return found

    def require_unchanged(self) -> None:
        """Save only if no other request has changed the session since this one read it."""
        self._session.require_unchanged()

    def take_seen(self, value: str) -> None:
        """Take the freshness token that the browser showed, in a cookie beside the key's."""
        if self._stored.ticket is not None:
            self._stored.ticket.show(value)

    def hand_out_seen(self, response: HttpResponse) -> None:
        """Give the browser the freshness token that it is to hold from now on, if that is another one."""
        stored = self._stored
        if stored.set_seen is None:
            return
        stored.set_seen = None
        name, path, domain = _seen_name(), django_settings.SESSION_COOKIE_PATH, django_settings.SESSION_COOKIE_DOMAIN
        same_site = django_settings.SESSION_COOKIE_SAMESITE
        if stored.ticket is None or not stored.ticket.seen:
            response.delete_cookie(name, path=path, domain=domain, samesite=same_site)
        else:
            response.set_cookie(
                name, stored.ticket.seen_cookie_value, path=path, domain=domain, samesite=same_site,
                secure=django_settings.SESSION_COOKIE_SECURE, httponly=django_settings.SESSION_COOKIE_HTTPONLY,
            )  # fmt: skip
        patch_vary_headers(response, ("Cookie",))
        _keep_out_of_caches(response)

    # --- what goes to the store, each with and without waiting -------------------------------------------------------

    def save(self, must_create: bool = False) -> None:
        """Save what changed, and begin the time anew after which the session expires.

        Raises:
            UpdateError: the session ended meanwhile, or its key was cycled.
            CreateError: with `must_create`, if it exists.
        """
        if self.saved_ahead:
            self.saved_ahead = False
            return
        self._sync(self._save(self._engine.sync.shared, must_create))

    async def asave(self, must_create: bool = False) -> None:
        """See `save`."""
        await self._async(self._save(self._engine.here(), must_create))

    def create(self) -> None:
        """Store a new session with a new key, with what is in this one."""
        self._sync(self._create(self._engine.sync.shared))

    async def acreate(self) -> None:
        """See `create`."""
        await self._async(self._create(self._engine.here()))

    def load(self) -> dict[str, Any]:
        """All that is stored under this session's key."""
        return self._sync(self._load(self._engine.sync.shared))

    async def aload(self) -> dict[str, Any]:
        """See `load`."""
        return await self._async(self._load(self._engine.here()))

    def exists(self, session_key: str | None) -> bool:
        """Whether this key opens a session."""
        return self._sync(self._exists(self._engine.sync.shared, session_key))

    async def aexists(self, session_key: str | None) -> bool:
        """See `exists`."""
        return await self._async(self._exists(self._engine.here(), session_key))

    def delete(self, session_key: str | None = None) -> None:
        """End the session that this key opens; by default this one's."""
        self._sync(self._delete(self._engine.sync.shared, session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        """See `delete`."""
        await self._async(self._delete(self._engine.here(), session_key))

    def flush(self) -> None:
        """End the session, finally, and begin a new one with nothing in it."""
        self._sync(self._flush(self._engine.sync.shared))

    async def aflush(self) -> None:
        """See `flush`."""
        await self._async(self._flush(self._engine.here()))

    def cycle_key(self) -> None:
        """Give the session a new key and end the old one at once, on every server. What is in it stays, and is saved.

        Raises:
            SessionInterrupted: the session ended meanwhile.
        """
        self._sync(self._cycle_key(self._engine.sync.shared))

    async def acycle_key(self) -> None:
        """See `cycle_key`."""
        await self._async(self._cycle_key(self._engine.here()))

    def clear(self) -> None:
        """Remove all that is in it; the session stays."""
        self._session.clear()
        self.modified = True

    @classmethod
    def clear_expired(cls) -> None:
        """Remove what has expired now. Stores do so by themselves too; those that cannot be told to are left alone."""
        store = session_manager().store
        if isinstance(store, SyncSweeping):
            while store.sweep():
                pass

    @classmethod
    async def aclear_expired(cls) -> None:
        """See `clear_expired`."""
        store = _engine().here().store
        if isinstance(store, AsyncSweeping):
            while await store.sweep():
                pass

    # --- the same, by a manager that waits for its store or does not -------------------------------------------------

    async def _loaded(self, manager: SessionManager) -> _Stored:
        self.accessed = True
        if not self._stored.loaded:
            await manager.load(self._stored)
        return self._stored

    async def _save(self, manager: SessionManager, must_create: bool) -> None:
        had_key = self._session_key is not None and not self._stored.loaded
        stored = await self._loaded(manager)
        if had_key and stored.session_id is None:
            raise UpdateError
        if must_create and stored.session_id is not None:
            raise CreateError
        await self._commit(manager)

    async def _commit(self, manager: SessionManager) -> None:
        """Store the session, surely."""
        stored = self._stored
        stored.settings = self._engine.settings_for(self.get_expiry_age())
        user = stored.get(_USER)
        if isinstance(user, str) and user:
            stored.belong_to(user)
        try:
            await manager.commit(stored, surely=True)
        except SessionGone:
            raise UpdateError from None
        except SessionExists:
            raise CreateError from None
        self.trouble = None
        self.modified = True  # as Django's own have it: whoever saves gets the cookie

    async def _create(self, manager: SessionManager) -> None:
        before = self._stored
        if before.session_id is not None or not before.loaded:
            self._session_key = None
            if before.loaded:
                self._stored.update(before)
        await self._commit(manager)

    async def _load(self, manager: SessionManager) -> dict[str, Any]:
        found = self._engine.session(self._session_key)
        await manager.load(found, anew=True)
        if found.session_id is None:
            self._session_key = None
        return dict(found)

    async def _exists(self, manager: SessionManager, session_key: str | None) -> bool:
        found = self._engine.session(session_key)
        await manager.load(found, anew=True)
        return found.session_id is not None

    async def _delete(self, manager: SessionManager, session_key: str | None) -> None:
        # Only who has the key may end the session, so it is read first.
        found = self._engine.session(self._session_key if session_key is None else session_key)
        await manager.load(found, anew=True)
        found.destroy()
        await manager.commit(found)

    async def _flush(self, manager: SessionManager) -> None:
        stored = await self._loaded(manager)
        stored.destroy()
        self._promised = False
        self.modified = True
        await manager.commit(stored)
        self.trouble = None

    async def _cycle_key(self, manager: SessionManager) -> None:
        stored = await self._loaded(manager)
        self.modified = True
        if stored.session_id is None:  # nobody has seen the key that it will have
            stored.promise()
            self._promised = True
            return
        stored.renew()
        try:
            await self._commit(manager)
        except UpdateError:
            raise SessionInterrupted("The session ended in another request while its key was changed.") from None

    def _sync(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return at_once(work)
        except REFUSALS as error:
            self.trouble = error
            raise

    async def _async(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except REFUSALS as error:
            self.trouble = error
            raise


class _Stored(ManagedSession):
    """What a `SessionStore` keeps its fields in."""

    __slots__ = ()

    def belong_to(self, user: str) -> None:
        """Be found among the sessions of this user, with the next commit."""
        if self.owner != user:
            self._owner = user

    def promise(self) -> None:
        """Decide now about the ticket of a session that has not been stored."""
        self._session_id_to_be()


class SessionMiddleware(middleware.SessionMiddleware):
    """`django.contrib.sessions.middleware.SessionMiddleware`, with clear answers while the store is down.

    In place of Django's own it makes four differences: what fails because the store is down is answered with 503 and
    `Retry-After` (a refused `require_unchanged()` with 409) rather than 500, a response that carries the cookie has
    `Cache-Control: no-store`, under ASGI no thread is needed to save a session, and a store that lags behind on one
    server gets its freshness token back, in a cookie of its own.
    """

    async def __acall__(self, request: HttpRequest) -> HttpResponse:
        """Under ASGI: Django's own goes to a thread twice for each request, this to none."""
        self.process_request(request)
        response: Any = await self.get_response(request)  # type: ignore[misc]
        session: Any = getattr(request, "session", None)  # a view may take it off, as Django's own allows
        if session is None:
            return self.process_response(request, response)
        wanted = response.status_code < 500 and (session.modified or django_settings.SESSION_SAVE_EVERY_REQUEST)
        if wanted and not session.is_empty():
            try:
                await session.asave()
            except REFUSALS as error:
                return _in_place_of(response, error)
            except UpdateError:
                raise SessionInterrupted("The session ended in another request while this one ran.") from None
            session.saved_ahead = True
        return self.process_response(request, response)

    def process_request(self, request: HttpRequest) -> None:
        """See Django's own."""
        super().process_request(request)
        seen = request.COOKIES.get(_seen_name())
        if seen is not None and isinstance(request.session, SessionStore):
            request.session.take_seen(seen)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer what a view did not catch."""
        return _answer(exception) if isinstance(exception, REFUSALS) else None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """See Django's own."""
        try:
            response = super().process_response(request, response)
        except REFUSALS as error:
            return _in_place_of(response, error)
        trouble = getattr(getattr(request, "session", None), "trouble", None)
        if trouble is not None and response.status_code == 500:  # it struck in a middleware, or in the error page
            return _in_place_of(response, trouble)
        if django_settings.SESSION_COOKIE_NAME in response.cookies:
            _keep_out_of_caches(response)
        session = getattr(request, "session", None)
        if isinstance(session, SessionStore):
            session.hand_out_seen(response)
        return response


def session_manager() -> SyncSessionManager:
    """What runs the sessions: to list those of a user, to end them, or to close the store."""
    return _engine().sync


def ready(*, timeout: float | None = None) -> bool:
    """Whether sessions can be served by synchronous views, for one of them that a readiness probe asks.

    Args:
        timeout: seconds to wait at most for a store that has to join others; `None` for as long as it takes.
    """
    return session_manager().ready(timeout=timeout)


async def aready(*, timeout: float | None = None) -> bool:
    """See `ready`; for asynchronous views."""
    return await _engine().here().ready(timeout=timeout)


def session_settings() -> Settings:
    """Django's settings of sessions, for another application that shares them, such as one for ASGI.

    The idle timeout is `SESSION_COOKIE_AGE`, and the cookie that of Django's `SESSION_COOKIE_…`.
    """
    engine = _engine()
    return engine.settings_for(_age()).but(touch_every=None, cookie=_cookie())


def _answer(error: CoatcheckError) -> HttpResponse:
    answer = answer_to(error)
    return HttpResponse(answer.text, status=answer.status, headers=dict(answer.headers))


def _keep_out_of_caches(response: HttpResponse) -> None:
    """See `coatcheck.cookie.finish_headers`."""
    for name in TARGETED_CACHE_FIELDS:
        response.headers.pop(name.decode(), None)
    patch_cache_control(response, no_store=True)


def _seen_name() -> str:
    name: str = django_settings.SESSION_COOKIE_NAME + SEEN
    return name


def _in_place_of(response: Any, error: CoatcheckError) -> HttpResponse:
    answer: Any = _answer(error)
    answer._resource_closers.extend(response._resource_closers)  # such as an open file
    return answer  # type: ignore[no-any-return]


# --- settings -------------------------------------------------------------------------------------------------------------


class _Engine:
    """What all sessions of this process share.

    Args:
        options: the setting `COATCHECK`.

    Raises:
        ConfigurationError: something in it cannot work.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        unknown = options.keys() - _OPTIONS
        if unknown:
            name = sorted(unknown)[0]
            raise ConfigurationError(f"COATCHECK[{name!r}]", options[name], "no such option", f"Known: {_known()}")
        if options.get("store") is None:
            raise ConfigurationError(
                "COATCHECK['store']", None, "no store was named", "Name one: COATCHECK = {'store': 'redis://…'}"
            )
        times = {name: options[name] for name in ("absolute_timeout", "store_timeout") if name in options}
        # How long each session may be idle is decided whenever one is saved, and what Django saves is always meant:
        # `touch_every` throttles what nobody asked for.
        always: dict[str, Any] = {"absolute_timeout": None, "idle_timeout": 0.001, "touch_every": 0}
        self.base = Settings(**(always | times))
        self._parts: dict[str, Any] = {"codec": options.get("codec"), "observers": options.get("observers", (log,))}
        self._url = options["store"] if isinstance(options["store"], str) else None
        self._async_store = options.get("async_store", self._url)
        self.sync = SyncSessionManager(options["store"], self.base, **self._parts)
        self.settings_for: Callable[[float], Settings] = lru_cache(maxsize=256)(self._settings_for)
        self._on_loops: dict[asyncio.AbstractEventLoop, tuple[SessionManager, AsyncGenerator[None, None]]] = {}

    def session(self, session_key: str | None) -> _Stored:
        """The session that this key opens, not yet read."""
        ticket = Ticket.parse(session_key) if isinstance(session_key, str) else None
        return _Stored(self.sync.shared, ticket)

    def here(self) -> SessionManager:
        """The manager for the running event loop: a store's connections belong to one."""
        loop = asyncio.get_running_loop()
        known = self._on_loops.get(loop)
        if known is None:
            for ended in [each for each in list(self._on_loops) if each.is_closed()]:
                self._on_loops.pop(ended, None)
            store = self._open_async()
            manager = SessionManager(store, self.base, **self._parts)
            known = self._on_loops[loop] = manager, _closing(None if store is self._async_store else store)
            _start(known[1])
        return known[0]

    def _open_async(self) -> AsyncStore:
        if isinstance(self.sync.store, MemoryStore):  # what synchronous views see, asynchronous ones must see too
            return AsyncMemoryStore(self.sync.store)
        if self._async_store is None:
            raise ConfigurationError(
                "COATCHECK['store']", type(self.sync.store).__qualname__, "a store for synchronous views alone",
                "Give a URL, which serves both, or name the other: COATCHECK['async_store']",
            )  # fmt: skip
        return open_store(self._async_store) if isinstance(self._async_store, str) else self._async_store

    def _settings_for(self, seconds: float) -> Settings:
        """The settings of a session that expires in so many seconds."""
        # What has expired already ends at once; what is to live for longer than a store can say lives for so long.
        idle_ms = max(1, round(min(seconds * 1000, LONGEST_MS)))
        if self.base.absolute_ms is not None:
            idle_ms = min(idle_ms, self.base.absolute_ms)
        return self.base.but(idle_timeout=idle_ms / 1000)


async def _closing(store: AsyncStore | None) -> AsyncGenerator[None, None]:
    """Lives as long as its event loop, which closes its asynchronous generators when it ends, and so the store.

    A store that somebody else has opened is theirs to close (`None`): their next event loop may go on with it.
    """
    try:
        yield
    finally:
        if store is not None:
            await store.close()


def _start(generator: AsyncGenerator[None, None]) -> None:
    """Go to the first `yield`, which is there without waiting."""
    start: Any = generator.__anext__()
    with suppress(StopIteration):
        start.send(None)


def _known() -> str:
    return ", ".join(sorted(_OPTIONS))


def _age() -> float:
    age = django_settings.SESSION_COOKIE_AGE  # a `timedelta(…).total_seconds()` is a float, which Django takes too
    if isinstance(age, bool) or not isinstance(age, (int, float)) or not age >= 1:
        raise ConfigurationError("SESSION_COOKIE_AGE", age, "not a time", "Use seconds, at least 1")
    return age


def _cookie() -> CookieSettings:
    """Django's settings of the cookie in our terms; refused if browsers would refuse the cookie."""
    same_site = django_settings.SESSION_COOKIE_SAMESITE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureCookieWarning)  # that is `check --deploy`'s to say (security.W012)
        return CookieSettings(
            name=django_settings.SESSION_COOKIE_NAME,
            secure=bool(django_settings.SESSION_COOKIE_SECURE),
            same_site=str(same_site).lower() if same_site else "lax",  # type: ignore[arg-type]
            path=django_settings.SESSION_COOKIE_PATH or "/",
            domain=django_settings.SESSION_COOKIE_DOMAIN or None,
        )


@cache
def _engine() -> _Engine:
    with _MAKING:
        return _make_engine()


_MAKING = Lock()  # threads that serve a process's first requests at once must not get a store each


@cache
def _make_engine() -> _Engine:
    options = getattr(django_settings, "COATCHECK", None)
    if not isinstance(options, dict):
        raise ImproperlyConfigured("Set COATCHECK, such as COATCHECK = {'store': 'redis://localhost:6379'}.")
    try:
        return _Engine(options)
    except ConfigurationError as error:
        raise ImproperlyConfigured(str(error)) from error


def _forget(*, setting: str, **_: Any) -> None:
    """A test that changes the setting gets what it says."""
    if setting == "COATCHECK":
        _engine.cache_clear()
        _make_engine.cache_clear()


setting_changed.connect(_forget)


@checks.register
def check_settings(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    """What `manage.py check` says of the settings. It runs where `coatcheck.django` is among `INSTALLED_APPS`."""
    found: list[checks.CheckMessage] = []
    if django_settings.SESSION_ENGINE != "coatcheck.django":
        return [
            checks.Warning(
                f"SESSION_ENGINE is {django_settings.SESSION_ENGINE!r}, so sessions are not coatcheck's.",
                hint="Set SESSION_ENGINE = 'coatcheck.django', or take 'coatcheck.django' out of INSTALLED_APPS.",
                id="coatcheck.W001",
            )
        ]
    try:
        _engine()
    except ImproperlyConfigured as error:
        found.append(checks.Error(str(error), id="coatcheck.E002"))
    try:
        _age()
        _cookie()
    except ConfigurationError as error:
        found.append(checks.Error(f"SESSION_COOKIE_…, in coatcheck's words: {error}", id="coatcheck.E003"))
    if django_settings.SESSION_SERIALIZER != _DEFAULT_SERIALIZER:
        found.append(
            checks.Warning(
                "SESSION_SERIALIZER has no effect: coatcheck encodes each value by itself.",
                hint="Take it out; COATCHECK['codec'] is the place for an encoding of your own.",
                id="coatcheck.W004",
            )
        )
    if f"{middleware.__name__}.SessionMiddleware" in django_settings.MIDDLEWARE:
        found.append(
            checks.Info(
                "With Django's own session middleware a store that is down is answered with 500.",
                hint="Use 'coatcheck.django.SessionMiddleware' in its place, which answers 503 with Retry-After.",
                id="coatcheck.I005",
            )
        )
    return found
