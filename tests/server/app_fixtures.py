"""The whole application in the test's own process: open_app() behind Hypercorn on a free port, on a fresh database.

async def test_…(chat: RunningApp) -> None:                                  # the usual settings
    ann = await chat.sign_up("ann")

async with open_chat(database, tmp_path, mailbox_rows_max=3) as chat: …       # other settings, or Hooks

pytestmark = over_both_paths                                                  # each test twice: sockets direct, and through Quart
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio

from chatty.app import App, Hooks, open_app, tree
from chatty.cli import hypercorn_config
from chatty.config import Settings, limiters
from chatty.web.listener import serve
from tests.server.wire_people import ORIGIN, SERVER_NAME, WireDevice, sign_up

tree.housekeeping_first_s = 1e6  # on order alone: it would take away what tests count
_PATH = "CHATTY_DIRECT_PATH"
over_both_paths = [
    pytest.mark.usefixtures("direct_path"),
    pytest.mark.parametrize("direct_path", ["auto", "off"], ids=["direct", "plain"], indirect=True),
]


@pytest.fixture
def direct_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The setting, for this process and those that it starts."""
    monkeypatch.setenv(_PATH, request.param)
    return str(request.param)


@dataclass(kw_only=True)
class RunningApp:
    """origin: http://host:port where it listens. http: speaks to it, for everybody. database: its address, to look into."""

    origin: str
    app: App
    settings: Settings
    http: httpx.AsyncClient
    database: str

    async def sign_up(self, name: str, **keys: Any) -> WireDevice:
        """A new account with one device; a further one: wire_people.sign_in()."""
        return await sign_up(self.http, name, **keys)

    async def sign_up_as(self, role: str, name: str | None = None) -> WireDevice:
        """A new account with this server role; without a name, of the role's name."""
        device = await self.sign_up(name or f"the-{role}")
        await self.execute("UPDATE users SET role = %s WHERE user_id = %s", role, device.user)
        return device

    async def sign_up_all(self, *names: str) -> list[WireDevice]:
        return [await self.sign_up(name) for name in names]

    async def rows(self, sql: str, *parameters: Any, **named: Any) -> list[tuple[Any, ...]]:
        """What the store holds: for a test's last look, not a way to act. named: parameters by name, in place of the others."""

        def look() -> list[tuple[Any, ...]]:
            with psycopg.connect(self.database) as connection:
                return connection.execute(sql, named or parameters).fetchall()

        return await trio.to_thread.run_sync(look)

    async def execute(self, sql: str, *parameters: Any) -> None:
        """What a test cannot wait for, such as the passing of days."""

        def change() -> None:
            with psycopg.connect(self.database) as connection:
                connection.execute(sql, parameters)

        await trio.to_thread.run_sync(change)


def without_limits() -> dict[str, Any]:
    """Settings under which no limiter refuses anything, so that each refusal is about what was asked."""
    return {f"limit_{name}": "off" for name in limiters()} | {"login_free_count": 1_000_000}


def chat_settings(data_dir: Path, **changes: Any) -> Settings:
    usual: dict[str, Any] = {
        "data_dir": data_dir / "data",
        "port": 0,
        "public_origin": ORIGIN,
        "server_name": SERVER_NAME,
        "registration": "open",
        "compare_interval_s": 0.2,
        "direct_path": os.environ.get(_PATH, "auto"),
    }
    return Settings(**(usual | changes))


@asynccontextmanager
async def open_chat(
    database: str, data_dir: Path, *, hooks: Hooks | None = None, **changes: Any
) -> AsyncIterator[RunningApp]:
    """Serve until the block is left. changes: settings."""
    settings = chat_settings(data_dir, **changes)
    stop = trio.Event()
    async with open_app(settings, address=database, hooks=hooks) as app, trio.open_nursery() as nursery:
        start: Callable[..., Any] = partial(serve, app.asgi, hypercorn_config(settings), shutdown_trigger=stop.wait)
        bound = await nursery.start(start)
        # verify: certificates, which nobody asks for here, take 20 ms to load.
        async with httpx.AsyncClient(base_url=bound[0], timeout=20, verify=False) as http:
            yield RunningApp(origin=bound[0], app=app, settings=settings, http=http, database=database)
        stop.set()


@pytest.fixture
async def chat(database: str, tmp_path: Path) -> AsyncIterator[RunningApp]:
    async with open_chat(database, tmp_path) as running:
        yield running
