"""Nothing is stored, logged or counted that chatty/admin/privacy.toml does not declare; and what is to be gone in time is gone.

The schema is the live one, the log is that of a day with everything in it, and of every line of code that logs.
"""

import ast
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families

from chatty.admin.privacy import Manifest, load_manifest, markdown
from chatty.services.audit import EraseAddresses, erasure_lead_s
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import configure_logging
from chatty.wire.events import Action
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import as_url, chatty_admin, chatty_admin_json
from tests.server.wire_client import Refused, ciphertext, open_live_socket, open_raw_socket
from tests.server.wire_people import HttpRefused, sign_in

ROOT = Path(__file__).resolve().parent.parent.parent
ADDRESS, USER_AGENT = "198.51.100.77", "PrivacyProbe/7.7"
_COLUMNS = """SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"""
_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"

pytestmark = pytest.mark.usefixtures("logging_as_before")


# What there is ------------------------------------------------------------------------------------------------------


def undeclared_columns(manifest: Manifest, columns: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """In one of the two and not in the other."""
    return columns ^ {(name, column) for name, table in manifest.tables.items() for column in table.columns}


def undeclared_fields(manifest: Manifest, lines: list[str]) -> set[str]:
    return {field for line in lines for field in json.loads(line)} - manifest.log.fields.keys()


def undeclared_labels(manifest: Manifest, exposition: str) -> set[str]:
    families = text_string_to_metric_families(exposition)
    return {label for family in families for sample in family.samples for label in sample.labels} - set(
        manifest.metrics.labels
    )


def fields_in_code(source: str) -> Iterator[str]:
    """Names of what calls of a log give it."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(
                    attr="debug" | "info" | "warning" | "error" | "exception", value=ast.Name(id="log" | "_log")
                ),
                keywords=keywords,
            ):
                yield from (one.arg for one in keywords if one.arg not in (None, "extra", "exc_info"))
                yield from (key for one in keywords if one.arg == "extra" for key in _keys(one.value))
            case ast.Assign(targets=[ast.Name(id="extra")], value=value):
                yield from _keys(value)


def _keys(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Dict):
        yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


# A day --------------------------------------------------------------------------------------------------------------


class Day:
    """A server with everything in it, its log and its metrics."""

    def __init__(self, chat: RunningApp, log: io.StringIO) -> None:
        self.chat = chat
        self._log = log
        self.metrics = ""

    @property
    def log_lines(self) -> list[str]:
        return self._log.getvalue().splitlines()

    async def pass_by(self) -> None:
        self.chat.http.headers.update({"X-Forwarded-For": ADDRESS, "User-Agent": USER_AGENT})
        ann, bob, eve = await self.chat.sign_up_all("ann", "bob", "eve")
        phone = await sign_in(ann)
        room = await ann.create_room(bob)
        await room.invite(ann, eve)
        await room.make_link(ann)
        await room.list_publicly(ann, "Lunch")
        async with open_live_socket(bob) as socket, open_raw_socket(self.chat.origin) as stranger:
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
            with pytest.raises(Refused):
                await socket.send(room.id, b"plain", epoch=room.epoch)
            await stranger.write_raw(b"nonsense")
            await stranger.closed()
        await ann.send_to_devices(bob, phone)
        await room.kick(ann, bob)
        await room.change(ann, Action.BAN, bob)
        with pytest.raises(HttpRefused):
            await eve.history(room.id)
        for name in ("ann", "nobody"):
            await self.chat.http.post("/v1/login", json={"user": f"@{name}:localhost"})
        await phone.person.refresh(phone.tokens["refresh_token"])
        await ann.answer("DELETE", f"/v1/devices/{phone.device}")
        data_dir = self.chat.settings.data_dir
        await chatty_admin(data_dir, "users", "invite")
        await chatty_admin_json(data_dir, "keys", "rotate", "checkpoint")
        await chatty_admin_json(data_dir, "limits", "why", ADDRESS)
        configure_logging("debug", self._log)  # the commands took it over
        self.metrics = (await self.chat.http.get("/metrics")).text


@pytest.fixture
async def day(database: str, tmp_path: Path) -> AsyncIterator[Day]:
    log = io.StringIO()
    configure_logging("debug", log)
    async with open_chat(database, tmp_path, trusted_proxies="127.0.0.1", address_retention_days=28) as chat:
        found = Day(chat, log)
        await found.pass_by()
        yield found


async def columns_of(chat: RunningApp) -> set[tuple[str, str]]:
    return {(table, column) for table, column in await chat.rows(_COLUMNS)}


async def tables_with(chat: RunningApp, text: str) -> set[str]:
    """Tables of which some row holds this text, however deep."""
    found = set()
    for (table,) in await chat.rows(_TABLES):
        [(count,)] = await chat.rows(f"SELECT count(*) FROM {table} t WHERE strpos(t::text, %s) > 0", text)
        if count:
            found.add(table)
    return found


async def test_a_day_leaves_nothing_that_is_not_declared(day: Day) -> None:
    manifest = load_manifest()
    assert undeclared_columns(manifest, await columns_of(day.chat)) == set()
    assert len(day.log_lines) > 40
    assert undeclared_fields(manifest, day.log_lines) == set()
    assert undeclared_labels(manifest, day.metrics) == set()


async def test_what_is_added_without_a_word_is_found(day: Day) -> None:
    manifest = load_manifest()
    await day.chat.execute("ALTER TABLE users ADD COLUMN shoe_size integer")
    await day.chat.execute("CREATE TABLE diary (entry text)")
    assert undeclared_columns(manifest, await columns_of(day.chat)) == {("users", "shoe_size"), ("diary", "entry")}
    structlog.get_logger("chatty.test").info("diary.written", shoe_size=44)
    assert undeclared_fields(manifest, day.log_lines) == {"shoe_size"}
    assert undeclared_labels(manifest, day.metrics + 'chatty_diaries_total{shoe_size="44"} 1\n') == {"shoe_size"}


async def test_addresses_are_gone_in_time_and_the_audit_log_still_verifies(day: Day) -> None:
    chat = day.chat
    assert await tables_with(chat, USER_AGENT) == set()
    assert not any(USER_AGENT in line or ADDRESS in line for line in day.log_lines)
    assert await tables_with(chat, ADDRESS) == {"audit"}
    await until_sealed(chat)
    await erase_addresses(chat, retention_days=28)
    assert await tables_with(chat, ADDRESS) == {"audit"}
    await erase_addresses(chat, retention_days=erasure_lead_s / 86_400)  # as if all that time had passed
    assert await tables_with(chat, ADDRESS) == set()
    report = await chatty_admin_json(
        chat.settings.data_dir, "audit", "verify", CHATTY_DATABASE_URL=as_url(chat.database)
    )
    assert (report["findings"], report["unsealed_count"]) == ([], 0)
    assert report["sealed_count"] > 10


async def erase_addresses(chat: RunningApp, *, retention_days: float) -> None:
    async with open_pool(chat.database) as pool:
        await EraseAddresses(units=PostgresUnitOfWork(pool), retention_days=retention_days).step()


async def until_sealed(chat: RunningApp) -> None:
    with trio.fail_after(10):
        while await chat.rows("SELECT 1 FROM audit WHERE NOT is_sealed"):
            await trio.lowlevel.checkpoint()


# What is written ----------------------------------------------------------------------------------------------------


def test_every_line_that_logs_names_declared_fields() -> None:
    fields = load_manifest().log.fields
    found = {
        (path.name, field)
        for path in (ROOT / "chatty").rglob("*.py")
        for field in fields_in_code(path.read_text(encoding="utf-8"))
        if field not in fields
    }
    assert found == set()


def test_the_search_for_fields_finds_them() -> None:
    code = 'log.info("a.b", one=1)\nlog.error("c.d", extra={"two": 2})\nextra = {"three": 3}\nother.info("e.f", four=4)'
    assert set(fields_in_code(code)) == {"one", "two", "three"}


def test_the_page_is_made_of_the_manifest() -> None:
    assert (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8") == markdown(load_manifest())


def test_everything_declared_says_why_and_how_long() -> None:
    for row in load_manifest().rows():
        assert len(row["purpose"]) > 4, row
        assert row["retention"], row
