"""docs/layout.md against a real session in a real Valkey."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from coatcheck import SessionManager, Settings
from coatcheck.manager import AsyncSession
from tests.servers.valkey import Valkey

PAGE = (Path(__file__).parents[2] / "docs" / "layout.md").read_text("utf-8")


def _section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


async def _visit(manager: SessionManager, session: AsyncSession) -> AsyncSession:
    assert session.ticket is not None
    cookie = f"__Host-session={session.ticket.cookie_value}"
    again = manager.session_for([(b"cookie", cookie.encode("ascii"))])
    await again.load()
    return again


async def test_every_field_of_a_real_record_is_described_and_no_other(valkey: Valkey) -> None:
    settings = Settings(renew_every=0.001, renew_grace=60)
    manager = SessionManager(valkey.url, settings)
    session = manager.session_for([])
    session.renew(owner="garimoo")
    session["user"] = "Garimoo"
    session.map("cart")["sku-42"] = 2
    await session.commit()
    await asyncio.sleep(0.005)
    session = await _visit(manager, session)
    await session.commit()  # renews, and so remembers the previous secret

    client = valkey.client()
    found = client.hgetall(f"coatcheck:session:{session.session_id}")
    described = set(re.findall(r"^\| `(@\w+)` \|", _section("Reserved fields"), re.MULTILINE))
    assert {name for name in found if name.startswith("@")} == described
    assert {name: text for name, text in found.items() if not name.startswith("@")} == {
        "user": '"Garimoo"',
        "cart[sku-42]": "2",
    }
    assert client.zrange("coatcheck:owner:garimoo", 0, -1) == [session.session_id]

    # As the page says of expiry.
    version, created, renewed, touched, idle, deadline = json.loads(found["@life"])
    assert version == 2 - 1  # a renewal beside a mere look is no change
    assert 0 < renewed <= touched
    expires = created + min(touched + idle, deadline)
    assert client.pexpiretime(f"coatcheck:session:{session.session_id}") == expires

    # As the page says of writing from outside.
    written = re.findall(r"^    > (HINCRBY|HSET|HDEL) (\S+) (.+)$", _section("Writing from outside"), re.MULTILINE)
    assert [command for command, _, _ in written] == ["HINCRBY", "HSET", "HDEL"]
    for command, key, rest in written:
        assert key.startswith("coatcheck:session:")
        words = [word.strip("'") for word in rest.split()]
        valkey(command, f"coatcheck:session:{session.session_id}", *words)
    session = await _visit(manager, session)
    assert dict(session) == {"user": "Gari", "hits": 1}
    await manager.end_sessions_of("garimoo")
    await manager.close()
