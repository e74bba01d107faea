"""The console of a server elsewhere, over HTTPS, with an operator's own log-in.

The log-in is the SDK's: the password stays here, the tokens are bound to a key that never leaves this machine. What is kept is a
store of the SDK and the key that opens it, in a directory that nobody else may enter; no secret of the account but these tokens.
What an act needs more than the role, a proof that it is still the operator, is asked for on the terminal, once.
"""

import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click
import trio
from msgspec import Struct

from chatty.admin.socket import Refused
from chatty.client.accounts import Enrolment
from chatty.client.errors import RemoteError, Unreachable
from chatty.client.http import Api
from chatty.client.passwords import OwnPassword, PasswordProver
from chatty.client.reasons import ClientError, NotSignedIn, StoreInUse, WrongStoreKey
from chatty.client.second_factors import FactorAsked
from chatty.client.store import LocalStore
from chatty.errors import (
    BadConfiguration,
    DeviceRevoked,
    RefreshRefused,
    ServerUnreachable,
    StepUpRequired,
    Unauthenticated,
)
from chatty.ids import UserId
from chatty.wire.accounts import SecondFactor
from chatty.wire.console import Argument, ConsoleRequest

_OPERATOR = "operator"
_store_wait_s = 5.0  # for another command of the same operator
_store_look_s = 0.05
_patience_s = 2.0  # somebody waits at a terminal
_loopback = frozenset({"127.0.0.1", "::1", "localhost"})


class Operator(Struct, frozen=True, kw_only=True):
    """Whose log-in the store has."""

    user: UserId
    server_name: str


def ask(
    origin: str, command: str, arguments: dict[str, Argument], *, children_max: int = 50, may_prompt: bool = True
) -> dict[str, Any]:
    """may_prompt: for a proof that it is still the operator.

    Raises: ServerUnreachable, Refused (nobody is signed in), and what the server refuses with.
    """
    request = ConsoleRequest(command=command, children_max=children_max, arguments=arguments)
    return _run(_ask, origin, request, may_prompt and sys.stdin.isatty())


def sign_in(origin: str, user: str, password: str) -> dict[str, Any]:
    """Raises: ServerUnreachable, LoginRefused, SecondFactorRefused, RateLimited."""
    return _run(_sign_in, origin, UserId(user), password)


def sign_out(origin: str) -> dict[str, Any]:
    """End the log-in session there and forget it here. Raises: ServerUnreachable, Refused."""
    return _run(_sign_out, origin)


def ask_password() -> str:
    """On a terminal without showing it; elsewhere the first line of stdin."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\n")


def _run(step: Any, origin: str, *arguments: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = trio.run(step, _checked(origin), *arguments)
        return answer
    except* (Unreachable, RemoteError, ClientError) as group:
        raise _as_console_error(group) from None


def _as_console_error(error: BaseException) -> ServerUnreachable | Refused:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case Unreachable():
            return ServerUnreachable(str(error))
        case NotSignedIn():
            return Refused("not_signed_in", "nobody is signed in to that server on this machine")
        case WrongStoreKey():
            return Refused("not_signed_in", f"the log-in that is kept here does not open: {error}")
        case StoreInUse():
            return Refused("store_in_use", "another command of yours holds this log-in")
        case RemoteError() if not error.remote_code and error.is_retryable_remotely:
            return ServerUnreachable(f"{error} of what stands before the server; it may or may not have been done")
        case RemoteError():
            return Refused(error.remote_code or error.code, str(error))
        case _:
            return Refused("server_not_trusted", str(error))


def _checked(origin: str) -> str:
    """Raises: BadConfiguration: a password's proof and tokens go over TLS, or stay on this machine."""
    parts = urlsplit(origin)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _loopback)
    if not parts.hostname or not is_safe or parts.path not in ("", "/"):
        raise BadConfiguration("--server: must be such as https://chat.example.org")
    return origin.rstrip("/")


# The store ----------------------------------------------------------------------------------------------------------


def directory() -> Path:
    """Where log-ins are kept: XDG_STATE_HOME, else .local/state in the home."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "chatty-admin"


@asynccontextmanager
async def _open_store(origin: str, *, may_make: bool = False) -> AsyncIterator[LocalStore]:
    """Raises: NotSignedIn, when there is none and none may be made; StoreInUse, WrongStoreKey."""
    folder = directory()
    name = quote(urlsplit(origin).netloc, safe="")
    if not may_make and not (folder / f"{name}.store").exists():
        raise NotSignedIn
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = await _opened(folder / f"{name}.store", _key(folder / f"{name}.key"))
    try:
        yield store
    finally:
        store.close()


async def _opened(path: Path, key: bytes) -> LocalStore:
    """Raises: StoreInUse, when another command has it for too long."""
    deadline = trio.current_time() + _store_wait_s
    while True:
        try:
            return LocalStore(path, key=key)
        except StoreInUse:
            if trio.current_time() > deadline:
                raise
            await trio.sleep(_store_look_s)


def _key(path: Path) -> bytes:
    """32 bytes, made at the first log-in, for their owner alone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        key = secrets.token_bytes(32)
        file.write(key)
    return key


@asynccontextmanager
async def _open_api(origin: str, store: LocalStore) -> AsyncIterator[Api]:
    api = Api(origin, store, patience_s=_patience_s)
    try:
        yield api
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2.0):
            await api.aclose()


# Steps --------------------------------------------------------------------------------------------------------------


async def _ask(origin: str, request: ConsoleRequest, may_prompt: bool) -> dict[str, Any]:
    async with _open_store(origin) as store, _open_api(origin, store) as api:
        operator = _operator(store)
        try:
            return (await api.console(request)).answer
        except StepUpRequired:
            if not may_prompt:
                raise
        await _step_up(api, operator, ask_password())
        return (await api.console(request)).answer


async def _step_up(api: Api, operator: Operator, password: str) -> None:
    own = OwnPassword(
        api,
        user=operator.user,
        server_name=operator.server_name,
        recovery_secret=b"",  # only a change of the password needs it
        prover=PasswordProver(api),
        second_factor=_ask_factor,
    )
    await own.step_up(password)


async def _sign_in(origin: str, user: UserId, password: str) -> dict[str, Any]:
    """Whoever is signed in already proves it once more: another log-in would be another device."""
    async with _open_store(origin, may_make=True) as store, _open_api(origin, store) as api:
        before = store.get(_OPERATOR, "", Operator)
        if before is None or before.user != user or not await _is_proven(api, before, password):
            if before is not None:
                await _log_out(api)
            server = await Enrolment(api, store).sign_in(
                user, password, device_name="chatty-admin", second_factor=_ask_factor
            )
            before = Operator(user=user, server_name=server.server_name)
            store.put(_OPERATOR, "", before)
        return {"server": origin, "server_name": before.server_name, "user": user}


async def _is_proven(api: Api, operator: Operator, password: str) -> bool:
    """False: the log-in that is kept here has ended. Raises: LoginRefused, RateLimited, Unreachable."""
    try:
        await _step_up(api, operator, password)
    except (DeviceRevoked, RefreshRefused, Unauthenticated, NotSignedIn):
        return False
    return True


async def _log_out(api: Api) -> None:
    """One that is over already is no error."""
    with suppress(DeviceRevoked, RefreshRefused, Unauthenticated, NotSignedIn):
        await api.logout()


async def _ask_factor(asked: FactorAsked) -> SecondFactor:
    """On the terminal; a passkey's browser is not here."""
    kinds = [kind for kind in asked.factors if kind in ("totp", "recovery_code")]
    if not kinds or not sys.stdin.isatty():
        raise Refused("second_factor_required", f"the server wants one of: {', '.join(asked.factors)}")
    code = str(click.prompt("Code of your authenticator, or a recovery code", err=True)).strip()
    is_totp = "totp" in kinds and code.isdigit()
    return SecondFactor(totp=code) if is_totp else SecondFactor(recovery_code=code)


async def _sign_out(origin: str) -> dict[str, Any]:
    async with _open_store(origin) as store, _open_api(origin, store) as api:
        operator = _operator(store)
        await _log_out(api)
        api.tokens.forget()
        store.delete(_OPERATOR, "")
        return {"server": origin, "user": operator.user, "is_signed_in": False}


def _operator(store: LocalStore) -> Operator:
    found = store.get(_OPERATOR, "", Operator)
    if found is None:
        raise NotSignedIn
    return found
