"""A running server: the real application behind a real Hypercorn on a free port, on a fresh database."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

from chatty.crypto.nonces import Nonces
from chatty.crypto.passwords import DEFAULT_DERIVATION
from chatty.crypto.sealing import MasterKey
from chatty.crypto.tokens import AccessTokens, RefreshTokens, make_jwks
from chatty.errors import StoreUnavailable
from chatty.services.accounts import AccountSteps
from chatty.services.caller import Caller
from chatty.services.devices import DeviceSteps
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.dpop import Proofs, ProvenRequest
from chatty.services.keys import KeySteps
from chatty.services.registration import Mode, RegistrationSteps
from chatty.services.server import ServerIdentity, open_identity
from chatty.services.server_keys import ServerKeys, open_server_keys
from chatty.services.sessions import Issuer, Lifetimes, SessionSteps
from chatty.services.signing_keys import SigningKeys
from chatty.store.pool import Pool, open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import Metrics
from chatty.web import accounts, devices, health, server, sessions
from chatty.web.application import make_quart
from chatty.web.openapi import openapi_route
from chatty.web.routes import Route
from chatty.wire.accounts import Jwks, ServerInfo
from tests.people import Person

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
    """http: speaks to it. Steps, pool and clock: the same objects that the server uses."""

    http: httpx.AsyncClient
    pool: Pool
    units: PostgresUnitOfWork
    keys: ServerKeys
    clock: Clock
    accounts: AccountSteps
    registration: RegistrationSteps
    sessions: SessionSteps
    key_steps: KeySteps
    doorbells: HeardDoorbells
    proofs: Proofs

    def person(self, name: str = "ann") -> Person:
        return Person(http=self.http, name=name, server_name=SERVER_NAME, origin=ORIGIN)

    async def caller(self, person: Person) -> Caller:
        """Who its access token says that it is."""
        token = person.tokens["access_token"]
        nonce, path = self.proofs.make_nonce(), "/v1/account"
        proof = person.prover.proof("GET", path, access_token=token, nonce=nonce)
        return await self.sessions.authenticate(token, ProvenRequest(method="GET", path=path, proof=proof))

    async def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        async with self.pool.connection() as connection:
            return await (await connection.execute(sql, parameters)).fetchall()


@asynccontextmanager
async def open_server(database: str, *, mode: Mode = "open") -> AsyncIterator[RunningServer]:
    clock, doorbells = Clock(), HeardDoorbells()
    async with open_pool(database) as pool:
        units = PostgresUnitOfWork(pool)
        identity = await open_identity(units, name=SERVER_NAME, make_generation_id=lambda: "first")
        keys = await open_server_keys(units, MASTER)
        signing_keys = SigningKeys(keys.signing, units=units, sealer=keys.sealer, clock_s=clock)
        access = AccessTokens(signing_keys, origin=ORIGIN, lifetime_s=600)
        refresh = RefreshTokens(keys.refresh_key)
        nonces = Nonces(keys.nonce_key, purpose="login")
        proofs = Proofs(Nonces(keys.nonce_key, purpose="dpop"), origin=ORIGIN, clock_s=clock)
        issuer = Issuer(access=access, refresh=refresh, nonces=nonces, origin=ORIGIN, clock_s=clock)
        account_steps = AccountSteps(
            unit_of_work=units,
            issuer=issuer,
            sealer=keys.sealer,
            salt_key=keys.salt_key,
            server_name=SERVER_NAME,
            mode=mode,
            key_derivations=[DEFAULT_DERIVATION],
        )
        session_steps = SessionSteps(
            unit_of_work=units,
            doorbells=doorbells,
            issuer=issuer,
            access=access,
            refresh=refresh,
            proofs=proofs,
            signing_keys=signing_keys,
            sealer=keys.sealer,
            lifetimes=Lifetimes(idle_s=1_000, absolute_s=10_000),
            clock_s=clock,
        )
        metrics = Metrics()

        def jwks() -> Jwks:
            return make_jwks([*signing_keys.published(), keys.checkpoint])

        routes = [
            *accounts.routes(account_steps),
            *sessions.routes(session_steps),
            *devices.routes(DeviceSteps(unit_of_work=units, doorbells=doorbells, clock_ms=clock.ms)),
            *server.routes(server_info(identity, mode), jwks),
            *health_routes(pool, metrics),
        ]
        app = make_quart(
            [*routes, openapi_route(routes, version="1")],
            authenticate=session_steps.authenticate,
            make_nonce=proofs.make_nonce,
            metrics=metrics,
            body_bytes_max=100_000,
        )
        async with serving(app) as http:
            yield RunningServer(
                http=http,
                pool=pool,
                units=units,
                keys=keys,
                clock=clock,
                accounts=account_steps,
                registration=RegistrationSteps(unit_of_work=units, mode=mode),
                sessions=session_steps,
                key_steps=KeySteps(unit_of_work=units, doorbells=doorbells, clock_ms=clock.ms),
                doorbells=doorbells,
                proofs=proofs,
            )


def server_info(identity: ServerIdentity, mode: Mode) -> ServerInfo:
    return ServerInfo(
        server_name=SERVER_NAME,
        origin=ORIGIN,
        version="1",
        generation=identity.generation,
        registration=mode,
        key_derivation=[DEFAULT_DERIVATION],
    )


def health_routes(pool: Pool, metrics: Metrics) -> list[Route]:
    checks = [partial(check_database, pool)]
    return health.routes(health.Health(server_name=SERVER_NAME, version="1", checks=checks, metrics=metrics))


async def check_database(pool: Pool) -> health.Check:
    try:
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")
    except StoreUnavailable:
        return health.Check(name="database", is_ready=False, reason="cannot be reached")
    return health.Check(name="database", is_ready=True)


@asynccontextmanager
async def serving(app: QuartTrio) -> AsyncIterator[httpx.AsyncClient]:
    config = Config.from_mapping(bind=["127.0.0.1:0"], accesslog=None, errorlog=None, graceful_timeout=1)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        start: Callable[..., Any] = partial(serve, app, config, shutdown_trigger=stop.wait)
        bound = await nursery.start(start)
        async with httpx.AsyncClient(base_url=bound[0], timeout=20) as http:
            yield http
        stop.set()


@pytest.fixture
async def running(database: str) -> AsyncIterator[RunningServer]:
    async with open_server(database) as running:
        yield running


@pytest.fixture
async def running_by_invitation(database: str) -> AsyncIterator[RunningServer]:
    async with open_server(database, mode="invite") as running:
        yield running
