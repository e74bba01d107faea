"""SDK parts against the real server, without an engine: one signed-in store, behind a connection that a test may break."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from chatty.client.accounts import Enrolment, Identity
from chatty.client.http import Api
from chatty.client.passwords import OwnPassword
from chatty.client.store import LocalStore
from chatty.ids import UserId
from tests.server.conftest import ORIGIN, RunningServer

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
        if self.losing.get(path, 0) and answer.is_success:
            self.losing[path] -= 1
            raise httpx.ReadError("the connection broke")
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@dataclass
class Device:
    enrolment: Enrolment
    api: Api
    transport: LosesAnswers
    user: UserId
    identity: Identity | None = None

    async def register(self, password: str = OLD) -> None:
        self.identity = await self.enrolment.register(
            self.user[1:].partition(":")[0], password, token="", device_name=""
        )

    async def login(self, password: str) -> None:
        self.identity = await self.enrolment.login(self.user, password, device_name="")

    @property
    def password(self) -> OwnPassword:
        assert self.identity is not None
        return self.enrolment.own_password(self.identity)

    async def change(self, old: str = OLD, new: str = NEW, *, end_other_sessions: bool = True) -> None:
        await self.password.change(old, new, end_other_sessions=end_other_sessions)


@asynccontextmanager
async def open_device(server: RunningServer, path: Path, name: str = "anna") -> AsyncIterator[Device]:
    store, transport = LocalStore(path, key=b"k" * 32), LosesAnswers(server)
    api = Api(ORIGIN, store, transport=transport, jitter=lambda _: 0.0)
    try:
        yield Device(Enrolment(api, store), api, transport, UserId(f"@{name}:example.org"))
    finally:
        await api.aclose()
        store.close()
