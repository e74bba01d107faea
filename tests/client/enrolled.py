"""A store and the real server, which listens elsewhere than at the origin that its log-ins are signed for. No socket."""

from pathlib import Path

import httpx

from chatty.client.accounts import Enrolment, Identity
from chatty.client.http import Api
from chatty.client.own_factors import OwnFactors
from chatty.client.store import LocalStore
from tests.server.conftest import ORIGIN, RunningServer


class Enrolled:
    """transport: another one, for a server that lies."""

    def __init__(self, path: Path, server: RunningServer, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.store = LocalStore(path, key=b"k" * 32)
        self.api = Api(ORIGIN, self.store, transport=transport)
        self.api._http.base_url = server.http.base_url
        self.enrolment = Enrolment(self.api, self.store)

    def own_factors(self, identity: Identity) -> OwnFactors:
        return OwnFactors(self.api, self.enrolment, identity)

    async def close(self) -> None:
        await self.api.aclose()
        self.store.close()
