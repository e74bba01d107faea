"""What the console shows of sessions, devices, rooms and storage, and how it ends the first two."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from chatty.actors.console import ConsoleCommand
from chatty.errors import BadRequest
from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId
from chatty.services.caller import current_operator
from chatty.services.console import ConsoleSteps, ShownRoom, Stored, page_count

IsConnected = Callable[[DeviceNumber], bool | None]  # None: nobody here can know
Json = Mapping[str, Any]


def inspection_commands(console: ConsoleSteps, is_connected: IsConnected) -> dict[str, ConsoleCommand]:
    """What `chatty-admin sessions`, `devices` and `rooms` ask, of the running server or beside it."""

    async def sessions(arguments: Json) -> dict[str, Any]:
        found = await console.sessions(user=_text(arguments, "user"), after=_text(arguments, "after"))
        rows = [_without_number(one) | {"is_connected": is_connected(one.number)} for one in found]
        return {"sessions": rows, "next_after": _next(rows, "session")}

    async def devices(arguments: Json) -> dict[str, Any]:
        found = await console.devices(user=_text(arguments, "user"), after=_text(arguments, "after"))
        rows = [_without_number(one) | {"is_connected": is_connected(one.number)} for one in found]
        return {"devices": rows, "next_after": _next(rows, "device")}

    async def end_session(arguments: Json) -> dict[str, Any]:
        session = FamilyId(_text(arguments, "session"))
        user, device = await console.end_session(current_operator(), session)
        return {"session": session, "user": user, "device": device}

    async def revoke(arguments: Json) -> dict[str, Any]:
        device = DeviceId(_text(arguments, "device"))
        return {"device": device, "user": await console.revoke_device(current_operator(), device)}

    return {
        "sessions list": sessions,
        "sessions end": end_session,
        "devices list": devices,
        "devices revoke": revoke,
        **_room_commands(console),
    }


def _room_commands(console: ConsoleSteps) -> dict[str, ConsoleCommand]:
    async def rooms(arguments: Json) -> dict[str, Any]:
        rows = [_without_number(one) for one in await console.rooms(after=_text(arguments, "after"))]
        return {"rooms": rows, "next_after": _next(rows, "room")}

    async def room(arguments: Json) -> dict[str, Any]:
        found, members, stored = await console.room(_text(arguments, "room"))
        return {
            **_without_number(found),
            "actor": actor_of(found),
            "messages_count": sum(one.messages_count for one in stored),
            "stored_bytes": sum(one.stored_bytes for one in stored),
            "members": [asdict(one) for one in members],
        }

    async def storage(arguments: Json) -> dict[str, Any]:
        after = arguments.get("after") or 0
        if not isinstance(after, int):
            raise BadRequest("after: the number that the page before gave")
        stored, next_after, left_count = await console.stored(after=after)
        return {"stored": _rows(stored), "next_after": next_after, "rooms_left_count": left_count}

    async def quotas(arguments: Json) -> dict[str, Any]:
        user = UserId(_text(arguments, "user"))
        rows = await console.quotas(user)
        return {
            "user": user,
            "quotas": [{"quota": name, "count": count, "count_max": count_max} for name, count, count_max in rows],
        }

    return {"rooms list": rooms, "rooms show": room, "storage": storage, "users quotas": quotas}


def actor_of(room: ShownRoom) -> str:
    """Where its actor is in the tree, when it is live."""
    return f"rooms/room {room.number}"


def _text(arguments: Json, name: str) -> str:
    return str(arguments.get(name) or "")


def _rows(stored: Iterable[Stored]) -> list[dict[str, Any]]:
    return [asdict(one) for one in stored]


def _without_number(one: Any) -> dict[str, Any]:
    """The store's own surrogate keys stay inside."""
    return {name: value for name, value in asdict(one).items() if name != "number"}


def _next(rows: list[dict[str, Any]], key: str) -> str:
    return str(rows[-1][key]) if len(rows) == page_count else ""
