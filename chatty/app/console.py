"""What the console asks the running application."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec

import chatty
from chatty.actors.console import ConsoleCommand, ConsoleSources, console_actor, socket_path
from chatty.actors.directory import Directory
from chatty.actors.janitor import Janitor
from chatty.actors.runtime import (
    StartFailed,
    Supervisor,
)
from chatty.config import Settings
from chatty.errors import BadRequest, ChattyError
from chatty.ids import InvitationId, UserId
from chatty.services.cleanup import CleanupSteps
from chatty.services.deletions import OperatorDeletion
from chatty.services.jobs import JobRun, JobSteps, ListedJob
from chatty.services.key_revocation import KeyRevocation
from chatty.services.key_rotation import KeyRotation
from chatty.services.limits import Limits
from chatty.services.registration import RegistrationSteps
from chatty.services.server_keys import KINDS
from chatty.services.statistics import CountStatistics
from chatty.services.users import UserSteps
from chatty.web import health
from chatty.wire.registration import AfterInvitationField, InvitationRequest
from chatty.wire.types import InvitationIdField
from chatty.wire.users import RoleChange

users_page_count = 1_000
runs_page_count = 20
statistics_days = 30
B = TypeVar("B", bound=msgspec.Struct)


async def start_console(
    settings: Settings,
    root: Supervisor,
    checks: health.Health,
    directory: Directory,
    commands: Mapping[str, ConsoleCommand],
) -> None:
    async def console_health() -> dict[str, Any]:
        readiness: dict[str, Any] = msgspec.to_builtins(await health.look(checks))
        return readiness

    def status() -> dict[str, Any]:
        return {
            "version": chatty.__version__,
            "server_name": settings.server_name,
            "origin": settings.public_origin,
            "sessions_count": len(directory),
        }

    data_dir = settings.data_dir
    sources = ConsoleSources(snapshot=root.snapshot, health=console_health, status=status, commands=commands)
    try:
        await root.start(console_actor(socket_path(data_dir), sources))
    except StartFailed as failure:
        if isinstance(failure.__cause__, ChattyError):  # another server runs on this directory
            raise failure.__cause__ from None
        raise


def limit_commands(limits: Limits) -> dict[str, ConsoleCommand]:
    """What `chatty-admin limits` asks."""

    async def why(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(limits.why(str(arguments["subject"])))

    async def shown(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return limits.shown()

    return {"limits why": why, "limits list": shown}


def user_commands(
    users: UserSteps, registration: RegistrationSteps, deletion: OperatorDeletion
) -> dict[str, ConsoleCommand]:
    """What `chatty-admin users` asks, of the running server or beside it."""

    async def listed(arguments: Mapping[str, Any]) -> dict[str, Any]:
        page = await users.listed(after=str(arguments.get("after") or ""), count_max=users_page_count)
        return {"users": _shown(page)["users"]}

    async def pending(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(await registration.pending())

    async def invite(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(await registration.invite(None, _body(arguments, InvitationRequest)))

    async def invitations(arguments: Mapping[str, Any]) -> dict[str, Any]:
        after = _id(arguments.get("after") or "", AfterInvitationField)
        page = await registration.invitations(after=after, count_max=users_page_count)
        return {"invitations": _shown(page)["invitations"]}

    async def withdraw(arguments: Mapping[str, Any]) -> dict[str, Any]:
        invitation = InvitationId(_id(arguments.get("invitation"), InvitationIdField))
        await registration.withdraw(None, invitation)
        return {"withdrawn": invitation}

    async def approve(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"approved": (await registration.approve(None, str(arguments.get("request")))).user}

    async def reject(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"rejected": (await registration.reject(None, str(arguments.get("request")))).user}

    async def delete(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(await deletion.delete(_user(arguments)))

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
        await users.set_role(None, user, wanted)
        return {"user": user, "role": wanted}

    async def lock(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await set_locked(_user(arguments), True)

    async def unlock(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await set_locked(_user(arguments), False)

    async def set_locked(user: UserId, is_locked: bool) -> dict[str, Any]:
        await users.set_locked(None, user, is_locked)
        return {"user": user, "is_locked": is_locked}

    async def end_sessions(arguments: Mapping[str, Any]) -> dict[str, Any]:
        user = _user(arguments)
        return {"user": user, **_shown(await users.end_sessions(None, user))}

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
        return asdict(await rotation.rotate(_kind(arguments)))

    async def progress(arguments: Mapping[str, Any]) -> dict[str, Any]:
        wake()
        return asdict(await rotation.progress())

    async def consequences(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"consequences": await revocation.consequences(_kind(arguments), str(arguments.get("id")))}

    async def revoke(arguments: Mapping[str, Any]) -> dict[str, Any]:
        state = await revocation.revoke(_kind(arguments), str(arguments.get("id")))
        wake()
        return asdict(state)

    return {
        "keys list": listed,
        "keys rotate": rotate,
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


def job_commands(
    jobs: JobSteps, statistics: CountStatistics, janitor: Janitor | None = None
) -> dict[str, ConsoleCommand]:
    """What `chatty-admin jobs` asks, of the running server or, without a janitor, beside it."""

    def looks_s() -> Mapping[str, float]:
        return {} if janitor is None else janitor.next_looks_s()

    def acted(arguments: Mapping[str, Any], **what: Any) -> dict[str, Any]:
        if janitor is not None:
            janitor.read_books()
        return {"job": _job(arguments), **what}

    async def listed(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"jobs": [_shown_job(one, looks_s().get(one.job)) for one in await jobs.listed()]}

    async def show(arguments: Mapping[str, Any]) -> dict[str, Any]:
        one, notes = await jobs.shown(_job(arguments))
        return {**_shown_job(one, looks_s().get(one.job)), "notes": notes}

    async def history(arguments: Mapping[str, Any]) -> dict[str, Any]:
        count_max = int(arguments.get("count_max") or runs_page_count)
        return {"runs": [asdict(run) for run in await jobs.history(_job(arguments), count_max=count_max)]}

    async def run(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return acted(arguments, order_number=await jobs.order(_job(arguments)))

    async def ordered(arguments: Mapping[str, Any]) -> dict[str, Any]:
        found = await jobs.ordered(_job(arguments), int(arguments.get("order_number") or 0))
        return {"run": None if found is None else asdict(found)}

    async def pause(arguments: Mapping[str, Any]) -> dict[str, Any]:
        await jobs.pause(_job(arguments))
        return acted(arguments, state="paused")

    async def resume(arguments: Mapping[str, Any]) -> dict[str, Any]:
        await jobs.resume(_job(arguments))
        return acted(arguments, state="scheduled")

    async def abort(arguments: Mapping[str, Any]) -> dict[str, Any]:
        await jobs.abort(_job(arguments))
        return acted(arguments, is_aborted=True)

    async def days(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"days": await statistics.listed(days_max=int(arguments.get("days_max") or statistics_days))}

    return {
        "jobs list": listed,
        "jobs show": show,
        "jobs history": history,
        "jobs run": run,
        "jobs ordered": ordered,
        "jobs pause": pause,
        "jobs resume": resume,
        "jobs abort": abort,
        "jobs statistics": days,
    }


def cleanup_commands(cleanup: CleanupSteps) -> dict[str, ConsoleCommand]:
    """What `chatty-admin cleanup` asks."""

    async def preview(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"leftovers": [asdict(one) for one in await cleanup.preview()]}

    return {"cleanup preview": preview}


def _job(arguments: Mapping[str, Any]) -> str:
    return str(arguments.get("job"))


def _shown_job(one: ListedJob, next_look_s: float | None) -> dict[str, Any]:
    """next_look_s: by this node; None where no server runs."""
    last: JobRun | None = one.last
    return {
        "job": one.job,
        "state": one.standing.state,
        "interval_s": one.interval_s,
        "next_look_s": next_look_s,
        "failures_count": one.standing.failures_count,
        "last": None if last is None else asdict(last),
    }
