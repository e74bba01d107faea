"""Exceptions that nobody foresaw: kept by place, told to a Sentry, shown to the operator, without a word of what they said."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.app import Hooks
from chatty.services.crash_points import CrashPoints, Point
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import as_url, chatty_admin, chatty_admin_json
from tests.server.wire_client import ciphertext, open_live_socket

SECRET = "chatty_r.ZmFtaWx5.what-somebody-wrote"
pytestmark = pytest.mark.usefixtures("logging_as_before")


class CrashTwice(CrashPoints):
    """Each of two messages crashes the journal, and is taken at the second try."""

    def __init__(self) -> None:
        self._plan = [True, False, True]

    async def reach(self, point: Point, subject: object = None) -> None:
        if point == "before_commit" and self._plan and self._plan.pop(0):
            raise LookupError(SECRET)


class Sentry:
    """What a Sentry would be told, over its own HTTP."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.dsn = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            received = b""
            while (end := received.find(b"\r\n\r\n")) < 0 or len(received) < end + 4 + self._length(received[:end]):
                received += await stream.receive_some(65_536)
            self.requests.append(received)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    @staticmethod
    def _length(head: bytes) -> int:
        [line] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return int(line.partition(b":")[2])

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(request.splitlines()[-1]) for request in self.requests]


@asynccontextmanager
async def open_sentry() -> AsyncIterator[Sentry]:
    sentry = Sentry()
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        sentry.dsn = f"http://publickey@127.0.0.1:{listener.socket.getsockname()[1]}/sub/7"
        nursery.start_soon(trio.serve_listeners, sentry.serve, [listener])
        yield sentry
        nursery.cancel_scope.cancel()


async def until_kept(chat: RunningApp, *, places_count: int) -> None:
    with trio.fail_after(20):
        while [(places_count,)] != await chat.rows("SELECT count(*) FROM crashes"):  # noqa: ASYNC110  # in a database
            await trio.sleep(0.02)


async def crash(chat: RunningApp) -> None:
    """In an actor, twice at one place; and in a request, which the database cannot answer."""
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        for _ in range(2):
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
    await chat.execute("ALTER TABLE blocks RENAME TO blocks_away")
    answer = await ann.answer("GET", "/v1/blocks")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert (await chat.http.get("/v1/nowhere")).status_code == 404  # that is no crash


async def test_crashes_are_kept_by_place_and_told_without_what_they_said(database: str, tmp_path: Path) -> None:
    async with (
        open_sentry() as sentry,
        open_chat(database, tmp_path, hooks=Hooks(crash_points=CrashTwice()), sentry_dsn=sentry.dsn) as chat,
    ):
        await crash(chat)
        await until_kept(chat, places_count=2)
        with trio.fail_after(20):
            while {event["tags"]["met_in"] for event in sentry.events} != {"journal", "http"}:  # noqa: ASYNC110
                await trio.sleep(0.02)
        data_dir, url = chat.settings.data_dir, as_url(database)
        listed = await chatty_admin_json(data_dir, "log", "errors", CHATTY_DATABASE_URL=url)
        top = await chatty_admin_json(data_dir, "top")
    assert {one["met_in"]: one["count"] for one in top["crashes"]} == {"journal": 2, "http": 1}
    by_kind = {row["kind"]: row for row in listed["errors"]}
    assert (by_kind["LookupError"]["count"], by_kind["LookupError"]["met_in"]) == (2, "journal")
    assert by_kind["LookupError"]["module"] == "chatty.store.journal"
    assert (by_kind["UndefinedTable"]["count"], by_kind["UndefinedTable"]["met_in"]) == (1, "http")
    # The server is down from here on.
    shown = await chatty_admin_json(
        data_dir, "log", "show", by_kind["UndefinedTable"]["crash_id"], CHATTY_DATABASE_URL=url
    )
    assert any(frame.startswith("chatty.store.blocks.") for frame in shown["frames"])
    table = await chatty_admin(data_dir, "log", "errors", "--count-max", "1", CHATTY_DATABASE_URL=url)
    assert (table.exit_code, table.stdout.count("met_in")) == (0, 1)
    nothing = await chatty_admin(data_dir, "log", "show", "0123456789ab", CHATTY_DATABASE_URL=url)
    assert (nothing.exit_code, nothing.stderr.splitlines()[-1]) == (1, "next: chatty-admin log errors")
    tells_sentry_the_same(sentry)
    assert all("what-somebody-wrote" not in text for text in (str(listed), str(shown), str(sentry.requests)))


def tells_sentry_the_same(sentry: Sentry) -> None:
    [event] = [event for event in sentry.events if event["tags"]["met_in"] == "http"]
    assert sentry.requests[0].startswith(b"POST /sub/api/7/envelope/ HTTP/1.1\r\n")
    assert b"sentry_key=publickey" in sentry.requests[0]
    [exception] = event["exception"]["values"]
    assert (exception["type"], "value" in exception) == ("UndefinedTable", False)
    assert any(frame["in_app"] for frame in exception["stacktrace"]["frames"])
    assert event["release"].startswith("chatty@")
