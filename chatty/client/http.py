"""Typed calls over HTTP. Errors come as the classes of chatty.errors; what may be tried again is, under the same n.

*Deadlines*: one try has `try_timeout_s`, all tries of one call `call_timeout_s`. *Cancelled*: the outcome is unknown; the
same call with the same n settles it.
"""

import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec
import trio

from chatty.client.backoff import Backoff, Jitter, full_jitter
from chatty.client.dpop import ProofMaker
from chatty.client.errors import RemoteError, Unreachable, error_from, is_retryable
from chatty.client.store import LocalStore
from chatty.client.tokens import TokenKeeper
from chatty.errors import ChattyError, TokenExpired, UseDpopNonce
from chatty.ids import DeviceId, PasskeyId, RoomId, SendNumber, Seq, UserId
from chatty.wire.accounts import (
    Account,
    Devices,
    Empty,
    HttpBody,
    Jwks,
    Login,
    PasswordChange,
    Refresh,
    Registration,
    Salt,
    SaltRequest,
    ServerInfo,
    StepUp,
    Tokens,
)
from chatty.wire.blocks import Blocks
from chatty.wire.console import ConsoleAnswered, ConsoleRequest
from chatty.wire.deletions import AccountDeletion, Receipt
from chatty.wire.keys import ClaimedKeys, KeyAnswer, KeyClaim, KeyCounts, KeyQuery, KeyUpload, ToDevice, ToDeviceAnswer
from chatty.wire.limits import page_events_max
from chatty.wire.preferences import Preferences
from chatty.wire.rooms import (
    Directory,
    Page,
    RoomCommitted,
    RoomCreation,
    SignedAnyPolicy,
    SignedDeletion,
    SignedInvitationBody,
    SignedMemberChange,
    UserPage,
)
from chatty.wire.second_factors import (
    AddedPasskey,
    NewPasskey,
    NewTotp,
    OwnSecondFactors,
    PasskeyChange,
    PasskeyOptions,
    RecoveryCodes,
    TotpConfirmation,
)
from chatty.wire.undecryptables import Undecryptables

T = TypeVar("T")
PolicyPath = Literal["policy", "links", "links/revoke", "listing"]
Sink = Callable[[bytes], Awaitable[None]]

# An idle connection is given up before the server does so, after 5 s: a request that met its end would be lost.
CONNECTIONS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=3.0)
try_timeout_s = 20.0
call_timeout_s = 60.0
# Each once at once in one call; a server that says it again and again is asked with growing pauses, like a busy one.
MENDED_AT_ONCE: frozenset[type[ChattyError]] = frozenset({TokenExpired, UseDpopNonce})


@cache
def trusted_certificates() -> ssl.SSLContext:
    """Read once a process: reading them takes 20 ms."""
    return httpx.create_ssl_context()


class Api:
    """One server. `origin`: scheme, host and port, as its users know it. `transport`: another one in tests."""

    def __init__(
        self,
        origin: str,
        store: LocalStore,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        jitter: Jitter = full_jitter,
        patience_s: float = call_timeout_s,
    ) -> None:
        """patience_s: how long a call is tried again, in place of call_timeout_s."""
        self.origin = origin.rstrip("/")
        self.proofs = ProofMaker(store, origin=self.origin)
        self.tokens = TokenKeeper(store, ask=self.refresh)
        self._jitter = jitter
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(
            base_url=self.origin,
            transport=transport,
            timeout=try_timeout_s,
            verify=trusted_certificates(),
            limits=CONNECTIONS,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    # Without a token

    async def server(self) -> ServerInfo:
        return await self._call("GET", "/v1/server", ServerInfo, is_signed_in=False)

    async def jwks(self) -> Jwks:
        return await self._call("GET", "/v1/jwks", Jwks, is_signed_in=False)

    async def salt(self, request: SaltRequest) -> Salt:
        return await self._call("POST", "/v1/salt", Salt, body=request, is_signed_in=False)

    async def register(self, request: Registration) -> Tokens:
        return await self._call("POST", "/v1/register", Tokens, body=request, is_signed_in=False, may_repeat=False)

    async def login(self, request: Login) -> Tokens:
        return await self._call("POST", "/v1/login", Tokens, body=request, is_signed_in=False, may_repeat=False)

    async def refresh(self, request: Refresh) -> Tokens:
        return await self._call("POST", "/v1/token", Tokens, body=request, is_signed_in=False, is_proven=True)

    # The account

    async def logout(self) -> None:
        await self._call("POST", "/v1/logout", Empty, body=Empty())

    async def step_up(self, request: StepUp) -> None:
        await self._call("POST", "/v1/step-up", Empty, body=request, may_repeat=False)

    async def account(self) -> Account:
        return await self._call("GET", "/v1/account", Account)

    async def change_password(self, request: PasswordChange) -> None:
        await self._call("POST", "/v1/account/password", Empty, body=request)

    async def delete_account(self, request: AccountDeletion) -> Receipt:
        return await self._call("DELETE", "/v1/account", Receipt, body=request)

    async def receipt(self, token: str) -> Receipt:
        return await self._call("GET", f"/v1/receipts/{token}", Receipt, is_signed_in=False)

    async def export(self, sink: Sink) -> None:
        """Pieces of the export, as they come. Raises: Unreachable also when it breaks off."""
        await self._call("POST", "/v1/account/export", Empty, body=Empty(), may_repeat=False, sink=sink)

    async def devices(self) -> Devices:
        return await self._call("GET", "/v1/devices", Devices)

    async def revoke_device(self, device: DeviceId) -> None:
        await self._call("DELETE", f"/v1/devices/{quote(device)}", Empty)

    async def blocks(self) -> Blocks:
        return await self._call("GET", "/v1/blocks", Blocks)

    async def block(self, user: UserId) -> None:
        await self._call("PUT", f"/v1/blocks/{user}", Empty)

    async def unblock(self, user: UserId) -> None:
        await self._call("DELETE", f"/v1/blocks/{user}", Empty)

    async def preferences(self) -> Preferences:
        return await self._call("GET", "/v1/account/preferences", Preferences)

    async def set_preferences(self, preferences: Preferences) -> None:
        await self._call("PUT", "/v1/account/preferences", Empty, body=preferences)

    async def report_undecryptables(self, undecryptables: Undecryptables) -> None:
        await self._call("POST", "/v1/undecryptables", Empty, body=undecryptables, may_repeat=False)

    async def user_stream(self, *, after: int) -> UserPage:
        return await self._call("GET", f"/v1/stream?after={after}", UserPage)

    # For operators

    async def console(self, request: ConsoleRequest) -> ConsoleAnswered:
        """Once: a lost answer may be that of an act that was done."""
        return await self._call("POST", "/v1/admin/console", ConsoleAnswered, body=request, may_repeat=False)

    # Second factors. What makes something anew is not asked for twice: its answer is told once.

    async def second_factors(self) -> OwnSecondFactors:
        return await self._call("GET", "/v1/second-factors", OwnSecondFactors)

    async def begin_totp(self) -> NewTotp:
        return await self._call("POST", "/v1/totp", NewTotp, body=Empty(), may_repeat=False)

    async def confirm_totp(self, request: TotpConfirmation) -> RecoveryCodes:
        return await self._call("POST", "/v1/totp/confirm", RecoveryCodes, body=request, may_repeat=False)

    async def remove_totp(self) -> None:
        await self._call("DELETE", "/v1/totp", Empty)

    async def make_recovery_codes(self) -> RecoveryCodes:
        return await self._call("POST", "/v1/recovery-codes", RecoveryCodes, body=Empty(), may_repeat=False)

    async def passkey_options(self) -> PasskeyOptions:
        return await self._call("GET", "/v1/passkeys/options", PasskeyOptions)

    async def add_passkey(self, request: NewPasskey) -> AddedPasskey:
        return await self._call("POST", "/v1/passkeys", AddedPasskey, body=request, may_repeat=False)

    async def change_passkey(self, passkey: PasskeyId, request: PasskeyChange) -> None:
        await self._call("PUT", f"/v1/passkeys/{quote(passkey)}", Empty, body=request)

    async def remove_passkey(self, passkey: PasskeyId) -> None:
        await self._call("DELETE", f"/v1/passkeys/{quote(passkey)}", Empty)

    # Keys

    async def upload_keys(self, request: KeyUpload) -> KeyCounts:
        return await self._call("POST", "/v1/keys/upload", KeyCounts, body=request)

    async def query_keys(self, request: KeyQuery) -> KeyAnswer:
        return await self._call("POST", "/v1/keys/query", KeyAnswer, body=request)

    async def claim_keys(self, request: KeyClaim, *, n: SendNumber, low: SendNumber) -> ClaimedKeys:
        return await self._call("POST", "/v1/keys/claim", ClaimedKeys, body=request, number=(n, low))

    async def to_device(self, request: ToDevice, *, n: SendNumber, low: SendNumber) -> ToDeviceAnswer:
        return await self._call("POST", "/v1/to-device", ToDeviceAnswer, body=request, number=(n, low))

    # Rooms. What is signed holds its n; the headers repeat it.

    async def create_room(self, request: RoomCreation, *, n: SendNumber, low: SendNumber) -> RoomCommitted:
        return await self._call("POST", "/v1/rooms", RoomCommitted, body=request, number=(n, low))

    async def invite(self, room: RoomId, request: SignedInvitationBody, *, n: SendNumber, low: SendNumber) -> None:
        await self._call("POST", f"/v1/rooms/{room}/invitations", Empty, body=request, number=(n, low))

    async def change_member(
        self, room: RoomId, request: SignedMemberChange, *, n: SendNumber, low: SendNumber
    ) -> RoomCommitted:
        return await self._call("POST", f"/v1/rooms/{room}/members", RoomCommitted, body=request, number=(n, low))

    async def change_policy(
        self, room: RoomId, what: PolicyPath, request: SignedAnyPolicy, *, n: SendNumber, low: SendNumber
    ) -> RoomCommitted:
        return await self._call("POST", f"/v1/rooms/{room}/{what}", RoomCommitted, body=request, number=(n, low))

    async def delete_message(
        self, room: RoomId, request: SignedDeletion, *, n: SendNumber, low: SendNumber
    ) -> RoomCommitted:
        return await self._call("POST", f"/v1/rooms/{room}/deletions", RoomCommitted, body=request, number=(n, low))

    async def directory(self, *, after: str, title: str) -> Directory:
        query = urlencode({"after": after, "title": title})
        return await self._call("GET", f"/v1/directory?{query}", Directory)

    async def events(self, room: RoomId, *, after: Seq) -> Page:
        return await self._call("GET", f"/v1/rooms/{room}/events?after={after}&limit={page_events_max}", Page)

    # How

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: HttpBody | None = None,
        number: tuple[SendNumber, SendNumber] | None = None,
        is_signed_in: bool = True,
        is_proven: bool = False,
        may_repeat: bool = True,
        sink: Sink | None = None,
    ) -> T:
        """is_proven: with a DPoP proof though without an access token; with one it always is. sink: takes the answer."""
        headers = {"Content-Type": "application/json"}
        if number is not None:
            headers |= {"Idempotency-Key": str(number[0]), "Chatty-Low": str(number[1])}
        content = None if body is None else msgspec.json.encode(body)
        backoff, at_once = Backoff(jitter=self._jitter), {*MENDED_AT_ONCE}
        deadline = trio.current_time() + self._patience_s
        refused = ""
        while True:
            if is_signed_in:
                access_token = await self.tokens.access_token(refused=refused)
                headers["Authorization"] = f"DPoP {access_token}"
                refused = access_token
            if is_signed_in or is_proven:
                headers["DPoP"] = self.proofs.proof(method, path, access_token=refused)
            try:
                return _decoded(await self._try(method, path, content, headers, sink), answer)
            except ChattyError as error:
                if not isinstance(error, TokenExpired):
                    refused = ""
                is_mended = type(error) in MENDED_AT_ONCE  # by another token, by the answer's nonce
                delay_s = 0.0 if type(error) in at_once else backoff.next_s(retry_after_s=error.retry_after_s)
                at_once.discard(type(error))
                may_retry = is_mended or (may_repeat and is_retryable(error))
                if not may_retry or trio.current_time() + delay_s > deadline:
                    raise
                await trio.sleep(delay_s)

    async def _try(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str], sink: Sink | None
    ) -> bytes:
        try:
            async with self._http.stream(method, path, content=content, headers=dict(headers)) as response:
                self.proofs.nonce = response.headers.get("DPoP-Nonce", self.proofs.nonce)
                if response.is_success and sink is not None:
                    async for piece in response.aiter_bytes():
                        await sink(piece)
                    return b"{}"
                answer = await response.aread()
        except httpx.TransportError as error:
            raise Unreachable(f"{method} {path}: {str(error) or type(error).__name__}") from None
        if response.is_success:
            return answer
        raise _problem(response)


def _decoded(content: bytes, answer: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteError(f"the answer is no {answer.__name__}: {error}") from None


def _problem(response: httpx.Response) -> ChattyError:
    """RFC 9457. Members beside the standard ones are what mends it."""
    try:
        problem: Any = json.loads(response.content)
        code = str(problem["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return RemoteError(
            f"HTTP {response.status_code}", is_retryable_remotely=response.status_code in (502, 503, 504)
        )
    message = str(problem.get("detail") or problem.get("title") or code)
    details = problem | (problem["details"] if isinstance(problem.get("details"), dict) else {})
    wait_s = problem.get("retry_after_s", response.headers.get("Retry-After"))
    return error_from(
        code,
        message,
        is_retryable=problem.get("is_retryable") is True,
        retry_after_s=_seconds(wait_s),
        details=details,
    )


def _seconds(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
