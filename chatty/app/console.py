"""What the console asks the running application, and which of it goes without one, beside the database."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec
import trio

import chatty
from chatty.actors.bus import SilentBus
from chatty.actors.console import ConsoleCommand, ConsoleSources, console_actor, socket_path
from chatty.actors.directory import Directory
from chatty.actors.janitor import Janitor
from chatty.actors.runtime import (
    StartFailed,
    Supervisor,
)
from chatty.app.inspection import IsConnected, inspection_commands
from chatty.app.jobs import job_commands
from chatty.app.process import now_ms
from chatty.config import Settings
from chatty.errors import BadRequest, ChattyError
from chatty.ids import InvitationId, UserId
from chatty.services.caller import current_operator
from chatty.services.console import ConsoleSteps, Rehearsal
from chatty.services.deletions import OperatorDeletion
from chatty.services.doorbells import Doorbells
from chatty.services.jobs import JobSteps
from chatty.services.key_revocation import KeyRevocation
from chatty.services.key_rotation import KeyRotation
from chatty.services.limits import Limits
from chatty.services.quotas import make_quotas
from chatty.services.registration import RegistrationSteps
from chatty.services.server_keys import KINDS
from chatty.services.statistics import CountStatistics
from chatty.services.units import Transactions
from chatty.services.users import UserSteps
from chatty.web import health
from chatty.wire.registration import AfterInvitationField, InvitationRequest
from chatty.wire.types import InvitationIdField
from chatty.wire.users import RoleChange

users_page_count = 1_000
B = TypeVar("B", bound=msgspec.Struct)


def console_sources(
    settings: Settings,
    root: Supervisor,
    checks: health.Health,
    directory: Directory,
    commands: Mapping[str, ConsoleCommand],
) -> ConsoleSources:
    started_at = trio.current_time()

    async def console_health() -> dict[str, Any]:
        readiness: dict[str, Any] = msgspec.to_builtins(await health.look(checks))
        return readiness

    def status() -> dict[str, Any]:
        return {
            "version": chatty.__version__,
            "server_name": settings.server_name,
            "origin": settings.public_origin,
            "uptime_s": round(trio.current_time() - started_at, 1),
            "sessions_count": len(directory),
        }

    return ConsoleSources(snapshot=root.snapshot, health=console_health, status=status, commands=commands)


async def start_console(settings: Settings, root: Supervisor, sources: ConsoleSources) -> None:
    """Raises: DataDirectoryInUse."""
    try:
        await root.start(console_actor(socket_path(settings.data_dir), sources))
    except StartFailed as failure:
        if isinstance(failure.__cause__, ChattyError):  # another server runs on this directory
            raise failure.__cause__ from None
        raise


def database_commands(
    settings: Settings,
    units: Transactions[Any],
    doorbells: Doorbells,
    *,
    is_connected: IsConnected = lambda _: None,
    clock_ms: Callable[[], int] = now_ms,
    janitor: Janitor | None = None,
) -> dict[str, ConsoleCommand]:
    """What needs nothing but the database, and a rehearsal of each. Other nodes see what changed when they next look."""
    acts = _database_commands(settings, units, doorbells, is_connected, clock_ms, janitor)
    tried = _database_commands(settings, Rehearsal(units), SilentBus(), is_connected, clock_ms)
    return acts | {f"rehearse {name}": command for name, command in tried.items()}


def _database_commands(
    settings: Settings,
    units: Transactions[Any],
    doorbells: Doorbells,
    is_connected: IsConnected,
    clock_ms: Callable[[], int],
    janitor: Janitor | None = None,
) -> dict[str, ConsoleCommand]:
    console = ConsoleSteps(unit_of_work=units, doorbells=doorbells, quotas=make_quotas(settings), clock_ms=clock_ms)
    users = user_commands(
        UserSteps(unit_of_work=units, doorbells=doorbells, clock_ms=clock_ms),
        RegistrationSteps(unit_of_work=units, mode=settings.registration_mode),
        OperatorDeletion(unit_of_work=units, doorbells=doorbells, clock_ms=clock_ms),
    )
    jobs = job_commands(JobSteps(units=units), CountStatistics(units=units), janitor)
    return users | inspection_commands(console, is_connected) | jobs


def limit_commands(limits: Limits) -> dict[str, ConsoleCommand]:
    """What `chatty-admin limits` asks."""

    async def why(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(limits.why(str(arguments.get("subject") or "")))

    async def shown(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return limits.shown()

    return {"limits why": why, "limits list": shown}


def user_commands(
    users: UserSteps, registration: RegistrationSteps, deletion: OperatorDeletion
) -> dict[str, ConsoleCommand]:
    """What `chatty-admin users` asks, of the running server or beside it."""

    async def listed(arguments: Mapping[str, Any]) -> dict[str, Any]:
        page = await users.listed(after=str(arguments.get("after") or ""), count_max=users_page_count)
        return _shown(page) | {"next_after": page.next_after}

    async def pending(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(await registration.pending())

    async def invite(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(await registration.invite(current_operator(), _body(arguments, InvitationRequest)))

    async def invitations(arguments: Mapping[str, Any]) -> dict[str, Any]:
        after = _id(arguments.get("after") or "", AfterInvitationField)
        page = await registration.invitations(after=after, count_max=users_page_count)
        return _shown(page) | {"next_after": page.next_after}

    async def withdraw(arguments: Mapping[str, Any]) -> dict[str, Any]:
        invitation = InvitationId(_id(arguments.get("invitation"), InvitationIdField))
        await registration.withdraw(current_operator(), invitation)
        return {"withdrawn": invitation}

    async def approve(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"approved": (await registration.approve(current_operator(), str(arguments.get("request")))).user}

    async def reject(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"rejected": (await registration.reject(current_operator(), str(arguments.get("request")))).user}

    async def delete(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(await deletion.delete(current_operator(), _user(arguments)))

    return {
        "users list": listed,
        "users pending": pending,
        "users invite": invite,
        "users invitations": invitations,
        "users withdraw": withdraw,
        "users approve": approve,
        "users reject": reject,
        "users delete": delete,
        **_account_commands(users),
    }


def _account_commands(users: UserSteps) -> dict[str, ConsoleCommand]:
    async def role(arguments: Mapping[str, Any]) -> dict[str, Any]:
        user, wanted = _user(arguments), _body({"role": arguments.get("role")}, RoleChange).role
        await users.set_role(current_operator(), user, wanted)
        return {"user": user, "role": wanted}

    async def lock(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await set_locked(_user(arguments), True)

    async def unlock(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await set_locked(_user(arguments), False)

    async def set_locked(user: UserId, is_locked: bool) -> dict[str, Any]:
        await users.set_locked(current_operator(), user, is_locked)
        return {"user": user, "is_locked": is_locked}

    async def end_sessions(arguments: Mapping[str, Any]) -> dict[str, Any]:
        user = _user(arguments)
        return {"user": user, **_shown(await users.end_sessions(current_operator(), user))}

    return {"users role": role, "users lock": lock, "users unlock": unlock, "users end-sessions": end_sessions}


def _user(arguments: Mapping[str, Any]) -> UserId:
    return UserId(str(arguments.get("user")))


def _id(value: Any, type_: Any) -> str:
    """type_: a text of one form."""
    return str(_converted(value, type_))


def _body(arguments: Mapping[str, Any], type_: type[B]) -> B:
    body: B = _converted(dict(arguments), type_)
    return body


def _converted(value: Any, type_: Any) -> Any:
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise BadRequest(f"arguments refused: {error}") from None


def _shown(answer: msgspec.Struct) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(answer)
    return shown


def key_commands(
    rotation: KeyRotation, revocation: KeyRevocation, wake: Callable[[], None]
) -> dict[str, ConsoleCommand]:
    """What `chatty-admin keys` asks. wake: the job looks at once."""

    async def listed(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"keys": [asdict(state) for state in await rotation.listed()]}

    async def rotate(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return asdict(await rotation.rotate(current_operator(), _kind(arguments)))

    async def planned(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return asdict(await rotation.planned(current_operator(), _kind(arguments)))

    async def progress(arguments: Mapping[str, Any]) -> dict[str, Any]:
        wake()
        return asdict(await rotation.progress())

    async def consequences(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"consequences": await revocation.consequences(_kind(arguments), str(arguments.get("id")))}

    async def revoke(arguments: Mapping[str, Any]) -> dict[str, Any]:
        state = await revocation.revoke(current_operator(), _kind(arguments), str(arguments.get("id")))
        wake()
        return asdict(state)

    return {
        "keys list": listed,
        "keys rotate": rotate,
        "rehearse keys rotate": planned,
        "keys progress": progress,
        "keys consequences": consequences,
        "keys revoke": revoke,
    }


def _kind(arguments: Mapping[str, Any]) -> str:
    """Raises: BadRequest."""
    kind = str(arguments.get("kind"))
    if kind not in KINDS:
        raise BadRequest("no such kind of key")
    return kind
