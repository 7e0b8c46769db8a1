"""A small shop on Flask: a cart that survives the login, flashed messages, and a logout that is final.

    python examples/flask_shop.py                                   sessions in memory
    python examples/flask_shop.py --store redis://localhost:6379    sessions in a Redis or Valkey

It is an ordinary Flask application. What is not Flask's own: the one line with `Sessions`, `map`, `renew` and `destroy`.
"""

from __future__ import annotations

import argparse
from typing import cast

from flask import Flask, flash, redirect, render_template_string, request, url_for
from flask import session as flask_session
from werkzeug.wrappers import Response

from coatcheck import Settings
from coatcheck.flask import FlaskSession, Sessions

GOODS = {"coat": ("Wool coat", 189), "hat": ("Felt hat", 49), "scarf": ("Long scarf", 29)}

session = cast(FlaskSession, flask_session)  # by its own type, so that editors know `map`, `renew` and `destroy`

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The coat shop</title>
<style>body { max-width: 40rem; margin: 2rem auto; font: 16px/1.6 system-ui, sans-serif } form { display: inline }</style>
<h1>The coat shop</h1>
{% for message in get_flashed_messages() %}<p><em>{{ message }}</em></p>{% endfor %}
{% if session.user %}
  <p>Hello, {{ session.user }}. <form method="post" action="{{ url_for('log_out') }}"><button>Log out</button></form></p>
{% else %}
  <form method="post" action="{{ url_for('log_in') }}">
    <input name="name" placeholder="Your name" required maxlength="40"> <button>Log in</button>
  </form>
{% endif %}
<ul>{% for item, (name, price) in goods.items() %}
  <li>{{ name }}, € {{ price }}
    <form method="post" action="{{ url_for('add', item=item) }}"><button>Add to cart</button></form></li>
{% endfor %}</ul>
<h2>Cart</h2>
<ul>{% for item, count in cart.items() %}
  <li>{{ count }} of {{ goods[item][0] }}
    <form method="post" action="{{ url_for('remove', item=item) }}"><button>remove</button></form></li>
{% else %}<li>Nothing in it yet.</li>{% endfor %}</ul>
</html>"""


def create_app(store: str = "memory://") -> Flask:
    """The shop.

    Args:
        store: where sessions live, by URL.
    """
    app = Flask(__name__)
    app.config.update(
        SESSION_COOKIE_NAME="__Host-session",
        SESSION_COOKIE_SECURE=True,  # browsers accept that on http://localhost, except Safari, which needs HTTPS
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=3600,
    )
    Sessions(app, store=store, settings=Settings(absolute_timeout=12 * 3600))

    @app.get("/")
    def home() -> str:
        cart = {item: count for item, count in session.map("cart").items() if item in GOODS}
        return render_template_string(PAGE, goods=GOODS, cart=cart)

    @app.post("/add/<item>")
    def add(item: str) -> Response:
        """An entry of a map is a field of its own: two windows that add at once both count."""
        if item in GOODS:
            session.map("cart").increment(item)
            flash(f"{GOODS[item][0]} added")
        return back()

    @app.post("/remove/<item>")
    def remove(item: str) -> Response:
        session.map("cart").pop(item, None)
        return back()

    @app.post("/login")
    def log_in() -> Response:
        """A new ticket for the logged-in user. The cart comes along; anything else that was there before does not."""
        name = request.form.get("name", "").strip()[:40]
        if name:
            session.renew(owner=name.casefold(), keep="cart")
            session["user"] = name
            flash("Welcome")
        return back()

    @app.post("/logout")
    def log_out() -> Response:
        session.destroy()
        return back()

    return app


def back() -> Response:
    return redirect(url_for("home"), code=303)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="default 8000")
    parser.add_argument("--store", default="memory://", help="where sessions live, by URL; default memory://")
    options = parser.parse_args()
    create_app(options.store).run(port=options.port)


if __name__ == "__main__":
    main()
