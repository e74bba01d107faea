"""A running server: the real application behind a real Hypercorn on a free port, on a fresh database."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

from chatty.app.checks import check_database
from chatty.app.database import Store, make_data_dir, open_store
from chatty.app.process import Hooks
from chatty.app.routes import make_routes
from chatty.app.steps import Steps, make_steps
from chatty.crypto.sealing import MasterKey
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.dpop import ProvenRequest
from chatty.services.limits import unlimited
from chatty.services.messages import Draft
from chatty.services.registration import Mode
from chatty.store.pool import Pool
from chatty.telemetry import Metrics
from chatty.web import health
from chatty.web.application import make_quart
from chatty.wire.registration import InvitationRequest
from tests.people import Person
from tests.server.app_fixtures import chat_settings

ORIGIN = "http://chatty.test"
SERVER_NAME = "example.org"
MASTER = MasterKey(b"m" * 32)


@dataclass
class HeardDoorbells(Doorbells):
    """Keeps what was rung."""

    heard: list[Doorbell] = field(default_factory=list)

    def ring(self, doorbell: Doorbell) -> None:
        self.heard.append(doorbell)


@dataclass
class Clock:
    """The server's clock, which a test may put forward."""

    offset_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset_s

    def ms(self) -> int:
        return int(self() * 1000)


@dataclass(kw_only=True)
class RunningServer:
    """http: speaks to it. Steps, store and clock: the same objects that the server uses."""

    http: httpx.AsyncClient
    store: Store
    steps: Steps
    clock: Clock
    doorbells: HeardDoorbells

    @property
    def pool(self) -> Pool:
        return self.store.pool

    def person(self, name: str = "ann") -> Person:
        return Person(http=self.http, name=name, server_name=SERVER_NAME, origin=ORIGIN)

    async def invite(self, **wanted: Any) -> str:
        """An invitation of the operator's."""
        return (await self.steps.registration.invite(None, InvitationRequest(**wanted))).invitation

    async def caller(self, person: Person) -> Caller:
        """Who its access token says that it is."""
        token = person.tokens["access_token"]
        nonce, path = self.steps.proofs.make_nonce(), "/v1/account"
        proof = person.prover.proof("GET", path, access_token=token, nonce=nonce)
        return await self.steps.tokens.authenticate(token, ProvenRequest(method="GET", path=path, proof=proof))

    async def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as connection:
            return await (await connection.execute(sql, parameters)).fetchall()

    async def execute(self, sql: str, *parameters: Any) -> None:
        """What a test cannot wait for, such as the passing of days."""
        async with self.pool.transaction() as connection:
            await connection.execute(sql, parameters)


@asynccontextmanager
async def open_server(
    database: str, data_dir: Path, *, mode: Mode = "open", **changes: Any
) -> AsyncIterator[RunningServer]:
    """Everything of the product but its actors: routes and steps over a real store, with a clock and doorbells of our own."""
    usual: dict[str, Any] = {
        "registration": mode,
        "server_name": SERVER_NAME,
        "refresh_idle_lifetime_s": 1_000,
        "refresh_absolute_lifetime_s": 10_000,
        "login_free_count": 1_000_000,
    }
    settings = chat_settings(data_dir, **(usual | changes))
    clock, doorbells, metrics = Clock(), HeardDoorbells(), Metrics()
    await make_data_dir(settings.data_dir)
    async with open_store(settings, database, metrics, Hooks()) as store:
        steps = make_steps(settings, store, doorbells, unlimited(), clock_s=clock)
        checks = health.Health(
            server_name=SERVER_NAME, version="1", checks=[partial(check_database, store.pool)], metrics=metrics
        )
        app = make_quart(
            make_routes(settings, store, steps, unlimited(), checks, _no_rooms),
            authenticator=steps.tokens,
            make_nonce=steps.proofs.make_nonce,
            metrics=metrics,
            body_bytes_max=100_000,
            policy=steps.policy,
        )
        async with serving(app) as http:
            yield RunningServer(http=http, store=store, steps=steps, clock=clock, doorbells=doorbells)


async def _no_rooms(draft: Draft) -> None:
    raise AssertionError("there are no room actors here")


@asynccontextmanager
async def serving(app: QuartTrio) -> AsyncIterator[httpx.AsyncClient]:
    config = Config.from_mapping(bind=["127.0.0.1:0"], accesslog=None, errorlog=None, graceful_timeout=1)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        start: Callable[..., Any] = partial(serve, app, config, shutdown_trigger=stop.wait)
        bound = await nursery.start(start)
        async with httpx.AsyncClient(base_url=bound[0], timeout=20, verify=False) as http:
            yield http
        stop.set()


@pytest.fixture
async def running(database: str, tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with open_server(database, tmp_path) as running:
        yield running


@pytest.fixture
async def running_by_invitation(database: str, tmp_path: Path) -> AsyncIterator[RunningServer]:
    async with open_server(database, tmp_path, mode="invite") as running:
        yield running
