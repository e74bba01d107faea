"""Signed-in devices straight in the store: a user, a device with real Olm keys, and the steps and routes that they call.

For tests of keys and mailboxes, which need many devices and no log-in.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from quart_trio import QuartTrio

from chatty.errors import Unauthenticated
from chatty.ids import DeviceId, DeviceNumber, FamilyId, SendNumber, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.dpop import ProvenRequest
from chatty.services.keys import KeySteps
from chatty.services.limits import unlimited
from chatty.services.mailbox import MailboxSteps
from chatty.store.pool import Pool, PoolLimits, open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import Metrics
from chatty.web import keys as web_keys
from chatty.web import mailbox as web_mailbox
from chatty.web.application import make_quart
from chatty.wire.chain import device_list_digest
from tests.olm_devices import OlmDevice

_USER = """INSERT INTO users (user_id, role, login_key_sealed, key_derivation, identity_key, wrapped_recovery, wrapped_identity,
list_digest) VALUES (%s, 'user', '', '{}', %s, '', '', %s) ON CONFLICT (user_id) DO NOTHING"""
_DEVICE = """INSERT INTO devices (device_id, user_number, name) SELECT %s, user_number, '' FROM users WHERE user_id = %s
RETURNING user_number, device_number"""
_SEND = "INSERT INTO device_send (device_number) VALUES (%s)"


@dataclass
class HeardDoorbells(Doorbells):
    """Keeps what was rung."""

    heard: list[Doorbell] = field(default_factory=list)

    def ring(self, doorbell: Doorbell) -> None:
        self.heard.append(doorbell)

    def devices(self) -> set[DeviceNumber]:
        """The devices rung for since the last call."""
        rung = {device for doorbell in self.heard for device in doorbell.devices}
        self.heard.clear()
        return rung


@dataclass(frozen=True, kw_only=True)
class SignedIn:
    """A device and who it is to the server; `n()` counts its requests."""

    olm: OlmDevice
    caller: Caller
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def number(self) -> DeviceNumber:
        return self.caller.device_number

    def n(self) -> dict[str, SendNumber]:
        n = SendNumber(next(self._numbers))
        return {"n": n, "low": n}


@dataclass(frozen=True, kw_only=True)
class World:
    pool: Pool
    units: PostgresUnitOfWork
    doorbells: HeardDoorbells
    keys: KeySteps
    mailbox: MailboxSteps
    callers: dict[str, Caller] = field(default_factory=dict)

    async def sign_in(self, name: str, device: str) -> SignedIn:
        """A device without keys, of a user who is made when needed."""
        user, device_id = UserId(f"@{name}:example.org"), DeviceId(device)
        async with self.pool.transaction() as connection:
            await connection.execute(_USER, (user, "A" * 43, device_list_digest([])))
            made = await (await connection.execute(_DEVICE, (device_id, user))).fetchone()
            assert made is not None
            await connection.execute(_SEND, (made[1],))
        caller = Caller(
            user=user,
            user_number=UserNumber(made[0]),
            device=device_id,
            device_number=DeviceNumber(made[1]),
            family=FamilyId("family"),
            role="user",
            thumbprint="T" * 43,
            step_up_age_s=0.0,
            expires_at_s=2e9,
        )
        self.callers[device] = caller
        return SignedIn(olm=OlmDevice(user=user, device=device_id), caller=caller)

    async def device(
        self, name: str, device: str, *, one_time_keys_count: int = 0, with_fallback: bool = False
    ) -> SignedIn:
        """A device in its user's set, its keys uploaded."""
        signed_in = await self.sign_in(name, device)
        upload = signed_in.olm.upload(one_time_keys_count=one_time_keys_count, with_fallback=with_fallback)
        await self.keys.upload(signed_in.caller, upload)
        return signed_in

    async def revoke(self, device: SignedIn) -> None:
        async with self.units.begin() as unit:
            await unit.devices.kill(device.number)

    async def value(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row."""
        async with self.pool.connection() as connection:
            row = await (await connection.execute(sql, parameters)).fetchone()
        return None if row is None else row[0]


@asynccontextmanager
async def open_world(
    database: str, *, rows_per_sender_max: int = 1_000, rows_max: int = 20_000
) -> AsyncIterator[World]:
    async with open_pool(database, limits=PoolLimits(connections_max=20)) as pool:
        units, doorbells = PostgresUnitOfWork(pool), HeardDoorbells()
        yield World(
            pool=pool,
            units=units,
            doorbells=doorbells,
            keys=KeySteps(
                unit_of_work=units, doorbells=doorbells, clock_ms=lambda: 1_700_000_000_000, limits=unlimited()
            ),
            mailbox=MailboxSteps(
                unit_of_work=units, doorbells=doorbells, rows_per_sender_max=rows_per_sender_max, rows_max=rows_max
            ),
        )


class Http:
    """Requests to the routes of keys and mailboxes; the access token is the device's id."""

    def __init__(self, app: QuartTrio) -> None:
        self._client = app.test_client()

    async def post(self, path: str, body: dict[str, Any], device: SignedIn, **number: int) -> dict[str, Any]:
        return await self._answer(path, body, device, status=200, **number)

    async def refused(
        self, path: str, body: dict[str, Any], device: SignedIn | None, *, status: int, **number: int
    ) -> dict[str, Any]:
        """The problem details."""
        return await self._answer(path, body, device, status=status, **number)

    async def _answer(
        self, path: str, body: dict[str, Any], device: SignedIn | None, *, status: int, **number: int
    ) -> dict[str, Any]:
        headers = {} if device is None else {"Authorization": f"DPoP {device.caller.device}"}
        if number:
            headers |= {"Idempotency-Key": str(number["n"]), "Chatty-Low": str(number["low"])}
        response = await self._client.post(path, json=body, headers=headers)
        answer: dict[str, Any] = await response.get_json(force=True)
        assert response.status_code == status, answer
        return answer


@dataclass(frozen=True)
class _Authenticator:
    """A device's id is its token."""

    world: World

    async def authenticate(self, token: str, _: ProvenRequest) -> Caller:
        if token not in self.world.callers:
            raise Unauthenticated("no such token")
        return self.world.callers[token]

    async def look_again(self, caller: Caller) -> Caller:
        return caller


def open_http(world: World) -> Http:
    routes = [*web_keys.routes(world.keys), *web_mailbox.routes(world.mailbox)]
    return Http(
        make_quart(
            routes, authenticator=_Authenticator(world), make_nonce=str, metrics=Metrics(), body_bytes_max=1_048_576
        )
    )
