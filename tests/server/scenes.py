"""People, devices and rooms that any request may speak of, and what a field of any type may hold among them."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from chatty.wire.accounts import SecondFactor
from chatty.wire.events import RoomRole
from chatty.wire.types import (
    DeviceIdField,
    EventIdField,
    KeyField,
    KeyIdField,
    NameField,
    PasskeyIdField,
    RecoveryCodeField,
    RoomIdField,
    ServerNameField,
    SignatureField,
    ThumbprintField,
    TotpCodeField,
    UserIdField,
)
from tests.server.app_fixtures import RunningApp
from tests.server.wire_people import SERVER_NAME, WireDevice, WireRoom, sign_in


@dataclass(frozen=True, kw_only=True)
class Scene:
    """ann acts: she owns the room and looks after the server in her role. spare: her second device, which she can lose.

    bob: a member of the room, with one-time keys. cid: not yet; ann is invited to the foreign room, which is cid's.
    """

    chat: RunningApp
    ann: WireDevice
    spare: WireDevice
    bob: WireDevice
    cid: WireDevice
    room: WireRoom
    foreign_room: WireRoom

    @property
    def known(self) -> dict[str, Any]:
        """What exists, or fits what exists, by the pattern of its type."""
        values = {
            UserIdField: self.bob.user,
            DeviceIdField: self.spare.device,
            RoomIdField: self.room.id,
            EventIdField: "$" + "A" * 43,
            KeyField: self.bob.identity_key,
            KeyIdField: f"signed_curve25519:{secrets.token_hex(4)}",
            NameField: new_name("dan"),
            ServerNameField: SERVER_NAME,
            SignatureField: "A" * 86,
            ThumbprintField: self.ann.person.prover.thumbprint,
            TotpCodeField: "123456",
            RecoveryCodeField: "ABCDE-FGHIJ-KLMNO-PQRST",
            PasskeyIdField: "A" * 43,
        }
        return {pattern_of(type_): value for type_, value in values.items()}

    @property
    def others(self) -> dict[str, list[Any]]:
        """Likewise what else could stand there and means something, or means nothing."""
        people = (self.ann, self.spare, self.bob, self.cid)
        values: dict[Any, list[Any]] = {
            UserIdField: [*(one.user for one in people), f"@nobody:{SERVER_NAME}", "@nobody:elsewhere.example"],
            DeviceIdField: [*(one.device for one in people), "NOBODYSDEVICE"],
            RoomIdField: [self.room.id, self.foreign_room.id, "!" + "A" * 43],
            KeyField: [*(one.identity_key for one in people), *(one.olm.curve25519 for one in people), "A" * 43],
            ServerNameField: [SERVER_NAME, "elsewhere.example"],
            SignatureField: ["A" * 86],
        }
        return {pattern_of(type_): found for type_, found in values.items()}


@cache
def pattern_of(type_: Any) -> str:
    info = inspect.type_info(type_)
    assert isinstance(info, inspect.StrType)
    return str(info.pattern)


def new_name(beginning: str) -> str:
    """That nobody has; letters and figures that look alike are not among its own."""
    return f"{beginning}.{secrets.token_hex(6)}".translate(str.maketrans("015", "xyz"))


async def make_scene(chat: RunningApp, role: str) -> Scene:
    """role: ann's, on the server."""
    ann = await chat.sign_up(new_name("ann"))
    await chat.execute("UPDATE users SET role = %s WHERE user_id = %s", role, ann.user)
    spare = await sign_in(ann)
    bob = await chat.sign_up(new_name("bob"), one_time_keys_count=2, with_fallback=True)
    cid = await chat.sign_up(new_name("cid"))
    room = await ann.create_room(bob)
    await bob.send_to_devices(ann)
    foreign_room = await cid.create_room()
    await foreign_room.invite(cid, ann)
    return Scene(chat=chat, ann=ann, spare=spare, bob=bob, cid=cid, room=room, foreign_room=foreign_room)


# Values of a type -------------------------------------------------------------------------------------------------


def sample(info: inspect.Type, known: Mapping[str, Any]) -> Any:
    """A JSON value of this type: what is known, else the least that is allowed. Fields with a default are left out.

    Raises: LookupError where nothing is known to fit.
    """
    match info:
        case inspect.StructType(cls=cls) if cls is SecondFactor:
            return {"totp": known[pattern_of(TotpCodeField)]}  # exactly one of its fields is wanted
        case inspect.StructType():
            fields = {field.encode_name: sample(field.type, known) for field in info.fields if field.required}
            tag = {info.tag_field: info.tag} if info.tag_field else {}
            return {**tag, **fields}
        case inspect.DictType():
            return {sample(info.key_type, known): sample(info.value_type, known)}
        case inspect.ListType():
            return [sample(info.item_type, known)]
        case inspect.TupleType():
            return [sample(item, known) for item in info.item_types]
        case inspect.UnionType():
            return sample(next(one for one in info.types if not isinstance(one, inspect.NoneType)), known)
        case _:
            return _scalar(info, known)


def _scalar(info: inspect.Type, known: Mapping[str, Any]) -> Any:
    match info:
        case inspect.StrType():
            return known.get(info.pattern or "") or _text(info)
        case inspect.IntType():
            return info.ge or 0
        case inspect.LiteralType():
            return info.values[0]
        case inspect.EnumType():
            return next(one.value for one in info.cls if one is not RoomRole.OWNER)
        case inspect.BoolType():
            return False
        case inspect.BytesType():
            return "AAAA"
        case inspect.FloatType():
            return 0.0
        case inspect.AnyType():
            return {}
        case _:
            raise LookupError(f"no sample of {info}")


def _text(info: inspect.StrType) -> str:
    for text in ("text", "m.room.encrypted", "m.megolm.v1.aes-sha2", "A" * 22, "A" * 43, "a" * 16, ""):
        fits = info.pattern is None or re.search(info.pattern, text)
        if fits and (info.min_length or 0) <= len(text) <= (info.max_length or 255):
            return text
    raise LookupError(f"no sample of {info}; add one to Scene.known")


@cache
def struct_info(type_: type[msgspec.Struct]) -> inspect.StructType:
    info = inspect.type_info(type_)
    assert isinstance(info, inspect.StructType)
    return info
