"""A Django site with an admin and logins, for the tests in this process. Its sessions are in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import django
from django.conf import settings

FOLDER = tempfile.TemporaryDirectory(prefix="coatcheck-django-")

OPTIONS = {"store": "memory://", "store_timeout": 5}

if not settings.configured:
    settings.configure(
        SECRET_KEY="only for tests",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "coatcheck.django",
        ],
        MIDDLEWARE=[
            "coatcheck.django.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(Path(FOLDER.name) / "site.sqlite3")}
        },
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage",
        SESSION_ENGINE="coatcheck.django",
        COATCHECK=OPTIONS,
    )
    django.setup()

from django.contrib import admin, messages  # noqa: E402 - Django wants its settings first
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402


def page(request: HttpRequest) -> HttpResponse:
    """What is in the session."""
    return JsonResponse(dict(request.session.items()))


def untouched(request: HttpRequest) -> HttpResponse:
    return HttpResponse("the same for everybody")


def put(request: HttpRequest) -> HttpResponse:
    request.session.update(request.GET.dict())
    return HttpResponse("stored", status=int(request.GET.get("status", "200")))


def expire(request: HttpRequest) -> HttpResponse:
    request.session.set_expiry(int(request.GET["in"]))
    return HttpResponse("set")


def say(request: HttpRequest) -> HttpResponse:
    messages.info(request, request.GET["text"])
    return HttpResponse("said")


def hear(request: HttpRequest) -> HttpResponse:
    return JsonResponse([str(message) for message in messages.get_messages(request)], safe=False)


def interrupted(request: HttpRequest) -> HttpResponse:
    """A logout in another tab, while this view works."""
    request.session["late"] = True
    type(request.session)(request.session.session_key).flush()
    return HttpResponse("too late")


def logout_during_an_outage(request: HttpRequest) -> HttpResponse:
    """The store fails between the look at the session and its end."""
    request.session.get("cat")
    settings.COATCHECK["store"].down = True
    request.session.flush()
    return HttpResponse("good-bye")


async def count(request: HttpRequest) -> HttpResponse:
    session: Any = request.session
    return HttpResponse(str(await session.aincrement("count")))


async def async_untouched(request: HttpRequest) -> HttpResponse:
    return HttpResponse("the same for everybody")


def cached(request: HttpRequest) -> HttpResponse:
    """A page that some caches are asked to keep, and that has become a visitor's own."""
    request.session["cat"] = "dog"
    kept = ("Cache-Control", "CDN-Cache-Control", "Surrogate-Control")
    return HttpResponse("yours", headers=dict.fromkeys(kept, "max-age=600"))


def without(request: HttpRequest) -> HttpResponse:
    """A view that takes the session off its request, which Django's own middleware allows."""
    del request.session
    return HttpResponse("nothing here")


async def async_interrupted(request: HttpRequest) -> HttpResponse:
    """See `interrupted`."""
    session: Any = request.session
    await session.aset("late", True)
    await type(session)(session.session_key).aflush()
    return HttpResponse("too late")


urlpatterns = [
    path("page", page),
    path("untouched", untouched),
    path("put", put),
    path("expire", expire),
    path("say", say),
    path("hear", hear),
    path("interrupted", interrupted),
    path("logout-during-an-outage", logout_during_an_outage),
    path("count", count),
    path("async-untouched", async_untouched),
    path("async-interrupted", async_interrupted),
    path("without", without),
    path("cached", cached),
    path("admin/", admin.site.urls),
]


def set_up_database() -> None:
    """Tables, and one user who may do everything."""
    call_command("migrate", verbosity=0)
    User.objects.create_superuser("garimoo", password="secret")
