"""A person with a password, over plain HTTP: what any client does to register and sign in, without the SDK."""

import itertools
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx

from chatty.crypto import signatures
from chatty.crypto.passwords import DEFAULT_DERIVATION
from chatty.ids import UserId
from chatty.wire.signing import log_in_digest, login_bytes
from tests.proofs import Prover

_numbers = itertools.count(1)


def outcome(answer: httpx.Response) -> str:
    """The error's code, or "ok"."""
    return "ok" if answer.is_success else str(answer.json()["code"])


def new_device_id() -> str:
    return f"DEVICE{next(_numbers):04}"


@dataclass(kw_only=True)
class Person:
    """login_seed: as if derived from the password; Argon2 is tested elsewhere and takes long."""

    http: httpx.AsyncClient
    name: str
    server_name: str
    origin: str
    login_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    tokens: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prover = Prover(origin=self.origin)

    @property
    def user(self) -> UserId:
        return UserId(f"@{self.name}:{self.server_name}")

    async def nonce(self) -> str:
        answer = await self.http.post("/v1/salt", json={"user": self.user})
        return str(answer.json()["nonce"])

    def statement(self, nonce: str, purpose: str, *, dpop_thumbprint: str | None = None, about: bytes = b"") -> bytes:
        thumbprint = self.prover.thumbprint if dpop_thumbprint is None else dpop_thumbprint
        return login_bytes(
            origin=self.origin, user=self.user, nonce=nonce, dpop_thumbprint=thumbprint, purpose=purpose, about=about
        )

    def sign(
        self,
        nonce: str,
        purpose: str,
        *,
        dpop_thumbprint: str | None = None,
        about: bytes = b"",
        seed: bytes | None = None,
    ) -> str:
        statement = self.statement(nonce, purpose, dpop_thumbprint=dpop_thumbprint, about=about)
        return signatures.sign(seed or self.login_seed, statement)

    async def step_up(self) -> httpx.Response:
        nonce = await self.nonce()
        body = {"nonce": nonce, "signature": self.sign(nonce, "step_up")}
        return await self.ask("POST", "/v1/step-up", json=body)

    async def registration(self, **changes: Any) -> dict[str, Any]:
        """The body of a registration."""
        nonce = await self.nonce()
        body: dict[str, Any] = {
            "name": self.name,
            "login_key": signatures.public_key(self.login_seed),
            "identity_key": signatures.public_key(secrets.token_bytes(32)),
            "wrapped_recovery": "AQID",
            "wrapped_identity": "BAUG",
            "key_derivation": {
                "algorithm": DEFAULT_DERIVATION.algorithm,
                "memory_bytes": DEFAULT_DERIVATION.memory_bytes,
                "passes": DEFAULT_DERIVATION.passes,
            },
            "new_device": {"device": new_device_id(), "name": "laptop"},
            "nonce": nonce,
            "signature": self.sign(nonce, "register"),
            "dpop_thumbprint": self.prover.thumbprint,
        }
        return {**body, **changes}

    async def register(self, **changes: Any) -> httpx.Response:
        answer = await self.http.post("/v1/register", json=await self.registration(**changes))
        return self._keep(answer)

    async def login(self, **changes: Any) -> dict[str, Any]:
        """The body of a log-in, good for a minute."""
        body = {
            "user": self.user,
            "new_device": {"device": new_device_id()},
            "nonce": changes.get("nonce") or await self.nonce(),
            "dpop_thumbprint": self.prover.thumbprint,
        } | changes
        return {"signature": signatures.sign(self.login_seed, self.login_statement(body)), **body}

    def login_statement(self, body: dict[str, Any], **changes: Any) -> bytes:
        """What the signature of this body is over. changes: of what is signed, so that it fits another one."""
        about = log_in_digest(**body["new_device"], replaces=body.get("replaces", ""))
        return self.statement(body["nonce"], "login", **{"about": about, **changes})

    async def log_in(self, **changes: Any) -> httpx.Response:
        return self._keep(await self.http.post("/v1/login", json=await self.login(**changes)))

    async def refresh(self, refresh_token: str) -> httpx.Response:
        return await self.prover.ask(self.http, "POST", "/v1/token", json={"refresh_token": refresh_token})

    def _keep(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code == 201:
            self.tokens = answer.json()
        return answer

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """As the device that signed in last."""
        return await self.prover.ask(self.http, method, path, access_token=self.tokens["access_token"], **options)
