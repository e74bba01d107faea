"""A client's DPoP key in tests, and requests that prove it."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from chatty.crypto.dpop import DpopKey


@dataclass(kw_only=True)
class Prover:
    """origin: the public one, as the server is told. nonce: as last heard over HTTP."""

    origin: str
    key: DpopKey = field(default_factory=lambda: DpopKey(secrets.token_bytes(32)))
    nonce: str = ""

    @property
    def thumbprint(self) -> str:
        return self.key.thumbprint

    def proof(self, method: str, path: str, *, access_token: str = "", nonce: str | None = None) -> str:
        return self.key.proof(
            method=method,
            url=self.origin + path.partition("?")[0],
            nonce=self.nonce if nonce is None else nonce,
            jti=secrets.token_urlsafe(12),
            now_s=time.time(),
            access_token=access_token,
        )

    async def ask(
        self, http: httpx.AsyncClient, method: str, path: str, *, access_token: str = "", **options: Any
    ) -> httpx.Response:
        """The server's answer; once more when it wanted another nonce."""
        headers = options.pop("headers", {})
        if access_token:
            headers = {"Authorization": f"DPoP {access_token}", **headers}
        while True:
            proven = {**headers, "DPoP": self.proof(method, path, access_token=access_token)}
            asked_with = self.nonce
            answer = await http.request(method, path, headers=proven, **options)
            self.nonce = answer.headers["DPoP-Nonce"]
            wants_nonce = answer.status_code == 401 and answer.json()["code"] == "use_dpop_nonce"
            if not wants_nonce or self.nonce == asked_with:
                return answer
