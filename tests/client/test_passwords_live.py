"""The SDK changes a password on the real server: what a second device then gets, and what becomes of a lost answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatty.client.accounts import Enrolment, Identity
from chatty.client.http import Api
from chatty.client.passwords import OwnPassword
from chatty.client.store import LocalStore
from chatty.client.weak_passwords import WeakPassword
from chatty.errors import DeviceRevoked, LoginRefused
from tests.server.conftest import ORIGIN, RunningServer, open_server

OLD, NEW = "correct horse battery staple", "a window above the harbour"


class LosesAnswers(httpx.AsyncBaseTransport):
    """The real server behind a connection that breaks after the request, as often as told."""

    def __init__(self, server: RunningServer) -> None:
        self._http = server.http
        self.losing: dict[str, int] = {}
        self.seen: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.seen.append(path)
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        answer = await self._http.request(
            request.method, request.url.raw_path.decode(), content=request.content, headers=headers
        )
        if self.losing.get(path, 0) and answer.status_code == 200:
            self.losing[path] -= 1
            raise httpx.ReadError("the connection broke")
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@dataclass
class Device:
    enrolment: Enrolment
    api: Api
    transport: LosesAnswers
    identity: Identity | None = None

    async def register(self, password: str = OLD) -> None:
        self.identity = await self.enrolment.register("anna", password, token="", device_name="")

    async def login(self, password: str) -> None:
        assert self.user is not None
        self.identity = await self.enrolment.login(self.user, password, device_name="")

    user: Any = None

    @property
    def password(self) -> OwnPassword:
        assert self.identity is not None
        return self.enrolment.own_password(self.identity)

    async def change(self, old: str = OLD, new: str = NEW, *, end_other_sessions: bool = True) -> None:
        await self.password.change(old, new, end_other_sessions=end_other_sessions)


@asynccontextmanager
async def open_device(server: RunningServer, path: Path, user: Any = "@anna:example.org") -> AsyncIterator[Device]:
    store, transport = LocalStore(path, key=b"k" * 32), LosesAnswers(server)
    api = Api(ORIGIN, store, transport=transport, jitter=lambda _: 0.0)
    try:
        yield Device(Enrolment(api, store), api, transport, user=user)
    finally:
        await api.aclose()
        store.close()


async def test_a_second_device_logs_in_with_the_new_password_and_finds_the_same_secrets(
    database: str, tmp_path: Path
) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as first:
        await first.register()
        await first.change()
        async with open_device(server, tmp_path / "2") as second:
            with pytest.raises(LoginRefused):
                await second.login(OLD)
            await second.login(NEW)
            assert first.identity is not None
            assert second.identity is not None
            assert second.identity.recovery_secret == first.identity.recovery_secret
            assert second.identity.identity_seed == first.identity.identity_seed


@pytest.mark.parametrize("end_other_sessions", [True, False])
async def test_other_devices_are_ended_or_stay(database: str, tmp_path: Path, end_other_sessions: bool) -> None:
    async with (
        open_server(database, tmp_path) as server,
        open_device(server, tmp_path / "1") as first,
        open_device(server, tmp_path / "2") as second,
    ):
        await first.register()
        await second.login(OLD)
        await first.change(end_other_sessions=end_other_sessions)
        if end_other_sessions:
            with pytest.raises(DeviceRevoked):
                await second.api.account()
        else:
            await second.api.account()


async def test_an_old_proof_of_the_password_is_made_anew(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        async with server.pool.transaction() as connection:
            await connection.execute("UPDATE refresh_families SET stepped_up_at = now() - interval '1 hour'")
        await device.change()
        assert device.transport.seen.count("/v1/account/password") == 2
        assert device.transport.seen.count("/v1/step-up") == 1


async def test_a_wrong_old_password_is_noticed_without_asking_for_the_change(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        with pytest.raises(LoginRefused):
            await device.change("another password")
        assert "/v1/account/password" not in device.transport.seen


async def test_a_weak_password_is_refused_before_anything_is_sent(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        with pytest.raises(WeakPassword):
            await device.register("anna1234")
        assert device.transport.seen == []
        await device.register()
        device.transport.seen.clear()
        with pytest.raises(WeakPassword):
            await device.change(new="password123")
        assert device.transport.seen == []


async def test_a_change_whose_answer_was_lost_is_settled(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        device.transport.losing["/v1/account/password"] = 1
        await device.change()
        assert device.transport.seen.count("/v1/account/password") == 2
        async with open_device(server, tmp_path / "2") as second:
            await second.login(NEW)


async def test_an_account_of_an_older_derivation_logs_in_and_moves_to_the_newer(database: str, tmp_path: Path) -> None:
    older, both = "67108864/2", "67108864/3, 67108864/2"
    async with (
        open_server(database, tmp_path, key_derivations=older) as server,
        open_device(server, tmp_path / "1") as device,
    ):
        await device.register()
    async with open_server(database, tmp_path, key_derivations=both) as server:
        async with open_device(server, tmp_path / "2") as device:
            await device.login(OLD)
            assert (await device.api.account()).key_derivation.passes == 2
            assert device.transport.seen.count("/v1/login") == 2
            await device.change()
            assert (await device.api.account()).key_derivation.passes == 3
        async with open_device(server, tmp_path / "3") as device:
            await device.login(NEW)
            assert device.transport.seen.count("/v1/login") == 1
            with pytest.raises(LoginRefused):
                await device.login("neither of them")
            assert device.transport.seen.count("/v1/login") == 3
