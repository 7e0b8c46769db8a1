"""The pages of the site."""

from __future__ import annotations

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.urls import path
from django.utils.html import format_html, format_html_join
from django.views.decorators.http import require_POST

from coatcheck.django import SessionStore

GOODS = {"coat": "Wool coat", "hat": "Felt hat", "scarf": "Long scarf"}


def session_of(request: HttpRequest) -> SessionStore:
    """`request.session` by its own type, so that editors know `map` and `increment`."""
    assert isinstance(request.session, SessionStore)
    return request.session


def home(request: HttpRequest) -> HttpResponse:
    token = get_token(request)
    button = '<form method="post" action="/add/{}"><input type="hidden" name="csrfmiddlewaretoken" value="{}">' + (
        "<button>{}</button></form>"
    )
    user = request.user
    who = format_html("Hello, {}.", user.get_username()) if user.is_authenticated else "Hello, whoever you are."
    return HttpResponse(
        format_html(
            '<!doctype html><html lang="en"><title>The coat shop</title><h1>The coat shop</h1>'
            '{}<p>{} <a href="/admin/">Log in or out</a></p>{}<h2>Cart</h2><ul>{}</ul></html>',
            format_html_join("", "<p><em>{}</em></p>", ((message,) for message in messages.get_messages(request))),
            who,
            format_html_join("", button, ((item, token, name) for item, name in GOODS.items())),
            format_html_join(
                "",
                "<li>{} of {}</li>",
                ((count, GOODS[item]) for item, count in session_of(request).map("cart").items()),
            ),
        )
    )


@require_POST
def add(request: HttpRequest, item: str) -> HttpResponse:
    """An entry of a map is a field of its own: two windows that add at once both count."""
    if item in GOODS:
        session_of(request).map("cart").increment(item)
        messages.info(request, f"{GOODS[item]} added")
    return HttpResponseRedirect("/")


urlpatterns = [path("", home), path("add/<item>", add), path("admin/", admin.site.urls)]
