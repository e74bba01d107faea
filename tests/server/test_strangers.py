"""What a stranger learns of others' things: nothing. Who was inside a room, who never was, and who has every id."""

import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from chatty.errors import Forbidden
from chatty.ids import DeviceId, FamilyId, InvitationId, MailboxId, PasskeyId, RoomId, UserId
from chatty.web.routes import Route
from chatty.wire import frames
from chatty.wire.accounts import Empty
from chatty.wire.canonical import encode_base64
from chatty.wire.events import Action, Policy, TimelineEvent
from tests.server.app_fixtures import RunningApp, open_chat, without_limits
from tests.server.operations import (
    FRAME_KINDS,
    Asked,
    Example,
    Peer,
    Things,
    ask,
    examples_of,
    frame_of,
    request_of,
    resigned,
)
from tests.server.thing_slots import QUERIES, Slot, replaced, slots, value_at
from tests.server.wire_client import changed, ciphertext, open_live_socket, open_raw_socket, open_socket
from tests.server.wire_people import HttpRefused, WireDevice, WireRoom, sign_in


async def test_who_was_banned_from_outside_reads_nothing(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    room = await ann.create_room(policy=Policy(history="shared"))
    await room.change(ann, Action.BAN, eve)
    with pytest.raises(HttpRefused, match="not_found"):
        await eve.history(room.id)
    assert {event["kind"] for event in (await eve.get("/v1/stream"))["events"]} == {"devices"}


async def test_who_left_and_is_banned_later_reads_up_to_the_leave(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob, policy=Policy(history="shared"))
    left = await room.leave(bob)
    async with open_socket(ann) as socket:
        await socket.send(room.id, ciphertext(), epoch=room.epoch)
    await room.change(ann, Action.BAN, bob)
    assert (await bob.all_history(room.id))[-1].seq == left.seq  # type: ignore[union-attr]
    async with open_live_socket(bob) as socket:
        shown = [event.seq for event in socket.pending if isinstance(event, TimelineEvent) and event.room == room.id]
        assert shown == list(range(1, left.seq + 1))


async def test_a_role_that_may_not_chat_opens_no_socket(chat: RunningApp) -> None:
    eve = await chat.sign_up("eve")
    await chat.rows("UPDATE users SET role = 'auditor' WHERE user_id = %s RETURNING 1", eve.user)
    async with open_raw_socket(chat.origin, device=eve) as socket:
        await socket.write(socket.hello())
        reason = await socket.closed()
        assert (reason.code, reason.reason) == (4411, Forbidden.code)
        assert [event.code for event in socket.pending if isinstance(event, frames.Error)] == [Forbidden.code]


# A stranger with every id -------------------------------------------------------------------------------------------
#
# Somebody knows all ids of another's things. Whatever is asked about them, everywhere where a request names a thing, is answered
# exactly as about ids of the same form that never were: status, names of headers, body. Where the path names the thing, by 403 or
# 404. Some fields are there to find everybody: they are written down here, and their answers are still searched for secrets.

_WRITE_TO_ANYBODY = "who writes to somebody must find their devices"
_INVITE_ANYBODY = "anybody may begin a conversation, and invite to a room of their own"
MEANT = {
    "post_v1_keys_query": {"device_keys.*": _WRITE_TO_ANYBODY, "device_keys.*.*": _WRITE_TO_ANYBODY},
    "post_v1_keys_claim": {"one_time_keys.*": _WRITE_TO_ANYBODY, "one_time_keys.*.*": _WRITE_TO_ANYBODY},
    "post_v1_to_device": {"messages.*": _WRITE_TO_ANYBODY, "messages.*.*": _WRITE_TO_ANYBODY},
    "post_v1_rooms": {"create.signed.direct.*": _INVITE_ANYBODY, "members.*.signed.target": _INVITE_ANYBODY},
    "post_v1_rooms_room_members": {
        "signed.target": _INVITE_ANYBODY,
        "signed.invitation.signed.target": _INVITE_ANYBODY,
    },
    "post_v1_rooms_room_invitations": {"signed.target": _INVITE_ANYBODY},
    "post_v1_login": {"new_device.device": "device ids are unique in the server, and drawn at random"},
    "post_v1_register": {"new_device.device": "likewise"},
    "put_v1_blocks_user": {"{user}": "who is bothered by somebody must be able to say so"},
    "delete_v1_blocks_user": {"{user}": "likewise"},
}
CHANCE = {"request_id", "nonce", "salt", "access_token", "refresh_token", "time", "id"}  # never twice the same
FIELDS = {  # of Things, by the kinds of slots
    "user": ("user", "peer"),
    "device": ("device",),
    "room": ("room",),
    "family": ("family",),
    "passkey": ("passkey",),
    "application": ("application",),
    "invitation": ("invitation",),
    "mailbox_id": ("mailbox_id",),
}
PATHS = {
    "room": "room",
    "device": "device",
    "user": "user",
    "number": "application",
    "passkey": "passkey",
    "invitation": "invitation",
}
Observed = tuple[object, ...]
_EVE_IS_OUT = {"unauthenticated", "device_revoked", "token_expired", "invalid_dpop_proof", "rate_limited"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request about a real thing, and the same about one that never was.

    kinds: what differs. where: in which place alone, if in one. in_path: the other's thing is named by the path.
    """

    route: Route
    theirs: Things
    kinds: frozenset[str]
    where: str = ""
    real: Asked
    absent: Asked
    in_path: bool = False
    is_meant: bool = False

    @property
    def shown(self) -> str:
        return f"{self.route.operation}, {self.where or sorted(self.kinds)}: {self.real.path} {self.real.body}"


@dataclass(kw_only=True)
class Scene:
    """eve is the stranger. theirs: several sets of one person's things. secrets: what may be in no answer to eve."""

    chat: RunningApp
    eve: WireDevice
    own: Things
    theirs: list[Things]
    secrets: list[str]

    async def cases(self) -> list[Case]:
        """What is meant to tell something comes last: it may leave something with the other."""
        found = [
            case
            for theirs in self.theirs
            for route in self.chat.app.routes
            for example in examples_of(route)
            async for case in cases_of(self, route, theirs, example)
        ]
        return sorted(found, key=lambda case: case.is_meant)


def absent_like(things: Things) -> Things:
    """Ids that never were, at the same place in every order."""
    return Things(
        user=UserId(things.user.replace(":", "_:")),
        peer=Peer(user=UserId(things.peer.user.replace(":", "_:")), identity_key=things.peer.identity_key),
        device=DeviceId(_other_end(things.device)),
        room=RoomId(_other_end(things.room)),
        family=FamilyId(_other_end(things.family)),
        passkey=PasskeyId(_other_end(things.passkey)),
        application=things.application + 1_000_000,
        invitation=InvitationId("f" * 16),
        mailbox_id=MailboxId(things.mailbox_id + 1_000_000),
    )


def _other_end(text: str) -> str:
    return text[:-1] + ("A" if text[-1] != "A" else "B")


def mixed(own: Things, theirs: Things, kinds: Collection[str]) -> Things:
    """One's own things, but of these kinds the other's."""
    return replace(own, **{name: getattr(theirs, name) for kind in kinds for name in FIELDS[kind]})


# The cases ----------------------------------------------------------------------------------------------------------


async def cases_of(scene: Scene, route: Route, theirs: Things, example: Example) -> AsyncIterator[Case]:
    own = await request_of(route, scene.eve, scene.own, example)
    places = [] if own.body is None else list(slots(own.body, route.body))
    in_path = {PATHS[name] for name in _named_by(route)}
    for kinds in (frozenset(FIELDS), *(frozenset({kind}) for kind in FIELDS)):
        is_in_path = bool(kinds & in_path)
        named = [f"{{{kind}}}" for kind in kinds & in_path] or [slot.name for slot in places if slot.kind in kinds]
        meant = any(_is_meant(route, name) for name in named)
        case = await _case(scene, route, theirs, example, kinds=kinds, in_path=is_in_path, is_meant=meant)
        if _names_something(case):
            yield case
    for slot in places:
        yield await _case(scene, route, theirs, example, slot=slot, is_meant=_is_meant(route, slot.name))
    for case in _cases_of_query(route, own, theirs):
        yield case


def _named_by(route: Route) -> list[str]:
    """Things in its path; a token names nothing to who does not have it."""
    return [name for name in re.findall(r"\{(\w+)\}", route.path) if name != "token"]


def _is_meant(route: Route, name: str) -> bool:
    return name in MEANT.get(route.operation, {})


def _names_something(case: Case) -> bool:
    """Is there a thing of these kinds in the request? One without is about nothing."""
    places = slots(case.real.body or {}, case.route.body or Empty)
    held = {str(value_at(case.real.body, slot.path)) for slot in places if slot.kind in case.kinds}
    named = words(case.theirs, case.kinds).keys()
    return case.in_path or bool(named & held) or case.theirs.family in str(case.real.body)


async def _case(
    scene: Scene,
    route: Route,
    theirs: Things,
    example: Example,
    *,
    kinds: frozenset[str] = frozenset(),
    slot: Slot | None = None,
    **facts: bool,
) -> Case:
    pair = []
    for things in (theirs, absent_like(theirs)):
        asked = await request_of(route, scene.eve, mixed(scene.own, things, kinds), example)
        if slot is not None:  # in this one place alone; what is signed is signed by eve
            body = replaced(asked.body, slot.path, getattr(things, slot.kind))
            asked = replace(asked, body=resigned(body, scene.eve))
        pair.append(asked)
    kinds, where = (kinds, "") if slot is None else (frozenset({slot.kind}), slot.name)
    return Case(route=route, theirs=theirs, kinds=kinds, where=where, real=pair[0], absent=pair[1], **facts)


def _cases_of_query(route: Route, own: Asked, theirs: Things) -> Iterator[Case]:
    for parameter in route.parameters:
        for kind in QUERIES[parameter.name] if parameter.place == "query" and not parameter.is_integer else ():
            real, absent = (
                replace(own, path=f"{own.path}?{parameter.name}={quote(str(getattr(things, kind)))}")
                for things in (theirs, absent_like(theirs))
            )
            name = f"?{parameter.name}"
            yield Case(route=route, theirs=theirs, kinds=frozenset({kind}), where=name, real=real, absent=absent)


# What eve sees ------------------------------------------------------------------------------------------------------


async def observe(scene: Scene, asked: Asked, things: Things, kinds: Collection[str]) -> Observed:
    """Checked for what nobody may tell her."""
    answer = await ask(scene.eve, asked)
    assert told_secrets(scene, answer.text, f"{asked.path} {asked.body}") == [], asked
    body = answer.json() if "json" in answer.headers["Content-Type"] else answer.text
    assert answer.status_code < 500
    assert answer.is_success or answer.json()["code"] not in _EVE_IS_OUT
    made = (asked.body or {}).get("new_device", {}).get("device", "(none)")  # each time another one
    said = {**words(things, kinds), made: "(the new device)"}
    return answer.status_code, tuple(sorted(answer.headers)), masked(body, said)


def told_secrets(scene: Scene, answer: str, question: str) -> list[str]:
    return [secret for secret in scene.secrets if secret in answer and secret not in question]


def words(things: Things, kinds: Collection[str]) -> dict[str, str]:
    """The same word for whatever is in question."""
    named = {name: getattr(things, name) for kind in kinds for name in FIELDS[kind]}
    texts = {name: thing.user if isinstance(thing, Peer) else thing for name, thing in named.items()}
    return {text: f"(the {name})" for name, text in texts.items() if isinstance(text, str)}


def masked(value: Any, said: Mapping[str, str]) -> Any:
    """Without what is never twice the same. said: words for texts."""
    if isinstance(value, dict):
        return {name: masked(item, said) for name, item in value.items() if name not in CHANCE}
    if isinstance(value, list):
        return [masked(one, said) for one in value]
    if isinstance(value, str):
        for text, word in said.items():
            value = value.replace(text, word)
    return value


@pytest.mark.long
async def test_a_stranger_with_every_id_learns_nothing_over_http(
    database: str, tmp_path: Path, counts: Callable[[int, int], int], seed: int
) -> None:
    """In `make test` a third of the cases, others each time."""
    dice, one_in = random.Random(seed), counts(3, 1)
    async with open_scene(database, tmp_path) as scene:
        cases = await scene.cases()
        about_things = {route.operation for route in scene.chat.app.routes if _named_by(route)} | set(MEANT)
        assert about_things <= {case.route.operation for case in cases}
        before, walked = await scene.chat.rows(_THEIRS), Counter[str]()
        for case in cases:
            if not case.is_meant and dice.randrange(one_in):
                continue
            if case.is_meant and before:
                assert await scene.chat.rows(_THEIRS) == before, "eve left something or took it away"
                before = []
            real = await observe(scene, case.real, case.theirs, case.kinds)
            absent = await observe(scene, case.absent, absent_like(case.theirs), case.kinds)
            assert case.is_meant or real == absent, case.shown
            assert case.is_meant or not case.in_path or {real[0], absent[0]} <= {403, 404}, case.shown
            walked[case.route.operation] += 1
        assert not before, "what is meant was walked too"
        print(f"{sum(walked.values())} pairs: {dict(walked)}")


async def test_a_stranger_with_every_id_learns_nothing_on_a_socket(database: str, tmp_path: Path) -> None:
    async with open_scene(database, tmp_path) as scene:
        before, walked = await scene.chat.rows(_THEIRS), set()
        for kind in FRAME_KINDS:
            for theirs in scene.theirs:
                real = await observe_frame(scene, kind, theirs)
                assert await observe_frame(scene, kind, absent_like(theirs)) == real, kind
                walked.add(kind)
        assert walked == set(FRAME_KINDS)
        assert await scene.chat.rows(_THEIRS) == before, "eve left something or took it away"


async def observe_frame(scene: Scene, kind: type[Any], things: Things) -> Observed:
    """All that comes on a new socket until the frame is answered and nothing more is under way."""
    async with open_raw_socket(scene.eve.origin, device=scene.eve) as socket:
        frame = frame_of(kind, scene.eve, things, socket.request_id())
        if isinstance(frame, frames.Hello):
            await socket.write(frame)
        else:
            await socket.write(changed(socket.hello(), more=isinstance(frame, frames.Cursors)))
            if not isinstance(frame, frames.Cursors):
                await socket.event(frames.Resumed)
                socket.pending.clear()  # eve's own, with the names of those who wrote to her
            await socket.write(frame)
        if isinstance(frame, frames.Hello | frames.Cursors):
            resumed = await socket.event(frames.Resumed)
            assert resumed is not None
        seen = [msgspec.to_builtins(event, enc_hook=str) for event in [*socket.pending, *await socket.settle()]]
        assert told_secrets(scene, str(seen), str(frame)) == []
        kinds = {slot.kind for slot in slots(msgspec.to_builtins(frame), kind)}
        return (frozenset(str(masked(event, words(things, kinds))) for event in seen),)  # streams come in any order


# The scene ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_scene(database: str, folder: Path) -> AsyncIterator[Scene]:
    async with open_chat(database, folder, quota_devices="1000", **without_limits()) as chat:
        yield await make_scene(chat)


async def make_scene(chat: RunningApp) -> Scene:
    """ann and bob talk in a group and in a direct room, and she left one; one of her devices was revoked."""
    ann, bob, eve = await chat.sign_up_all("ann", "bob", "eve")
    phone, lost, spare = await sign_in(ann), await sign_in(ann), await sign_in(eve)
    await ann.answer("PUT", f"/v1/devices/{phone.device}/name", {"name": "a-name-of-ann"})
    group, direct, left = await ann.create_room(bob), await ann.create_direct(bob), await bob.create_room(ann)
    await left.leave(ann)
    text = ciphertext()
    async with open_socket(ann) as socket:
        await socket.send(group.id, text, epoch=group.epoch)
    for device in (ann, phone, lost, eve, spare):
        await bob.send_to_devices(device, text="MailboxContentOf" + device.person.name)
    await ann.answer("DELETE", f"/v1/devices/{lost.device}")
    await chat.execute(_PASSKEY, ann.user)
    await chat.execute(_INVITE, ann.user)
    hidden = [group.id, direct.id, left.id, "a-name-of-ann", "MailboxContentOfann", encode_base64(text)[:40]]
    hidden += ["PasskeyOfann", "name-of-a-passkey"]
    hidden += [str(one.tokens[kind]) for one in (ann, phone, bob) for kind in ("access_token", "refresh_token")]
    theirs = [
        await things_of(chat, device, bob, room) for device, room in ((ann, group), (phone, direct), (lost, left))
    ]
    own = await things_of(chat, spare, bob, await eve.create_room())
    return Scene(chat=chat, eve=eve, own=own, theirs=theirs, secrets=[*hidden, *(one.family for one in theirs)])


async def things_of(chat: RunningApp, device: WireDevice, peer: WireDevice, room: WireRoom) -> Things:
    [(family, mailbox_id)] = await chat.rows(_KEPT, device.device)
    return Things(
        user=device.user,
        peer=Peer(user=peer.user, identity_key=peer.identity_key),
        device=device.device,
        room=room.id,
        family=FamilyId(family),
        passkey=PasskeyId(f"PasskeyOf{device.person.name}"),
        application=1,
        invitation=_INVITATION,
        mailbox_id=MailboxId(mailbox_id),
    )


_PASSKEY = """INSERT INTO passkeys (user_number, credential_id, public_key, sign_count, transports, name)
SELECT user_number, 'PasskeyOfann', '', 0, '{}', 'name-of-a-passkey' FROM users WHERE user_id = %s"""
_INVITATION = InvitationId("ab" * 8)
_INVITE = """INSERT INTO registration_tokens (token_hash, role, uses_left, expires_at, inviter_number)
SELECT decode(repeat('ab', 32), 'hex'), 'user', 1, now() + interval '1 day', user_number FROM users WHERE user_id = %s"""
_KEPT = """SELECT f.family_id, m.mailbox_id FROM devices d JOIN refresh_families f USING (device_number)
JOIN mailbox m USING (device_number) WHERE d.device_id = %s"""
# Everything that is of ann, or of bob, whose rooms hers are.
_THEIRS = """WITH people AS (SELECT user_number AS u FROM users WHERE user_id LIKE '@ann:%%' OR user_id LIKE '@bob:%%'),
 owned AS (SELECT device_number AS d FROM devices JOIN people ON user_number = u),
 inside AS (SELECT DISTINCT room_number AS r FROM members JOIN people ON user_number = u)
SELECT 'user', row_to_json(t)::text FROM users t JOIN people ON user_number = u
UNION ALL SELECT 'device', row_to_json(t)::text FROM devices t JOIN owned ON device_number = d
UNION ALL SELECT 'send', row_to_json(t)::text FROM device_send t JOIN owned ON device_number = d
UNION ALL SELECT 'family', row_to_json(t)::text FROM refresh_families t JOIN owned ON device_number = d
UNION ALL SELECT 'passkey', row_to_json(t)::text FROM passkeys t JOIN people ON user_number = u
UNION ALL SELECT 'invitation', row_to_json(t)::text FROM registration_tokens t JOIN people ON inviter_number = u
UNION ALL SELECT 'key', row_to_json(t)::text FROM one_time_keys t JOIN owned ON device_number = d
UNION ALL SELECT 'mailbox', row_to_json(t)::text FROM mailbox t JOIN owned ON device_number = d
UNION ALL SELECT 'stream', row_to_json(t)::text FROM user_stream t JOIN people ON user_number = u
UNION ALL SELECT 'room', row_to_json(t)::text FROM rooms t JOIN inside ON room_number = r
UNION ALL SELECT 'member', row_to_json(t)::text FROM members t JOIN inside ON room_number = r
UNION ALL SELECT 'event', row_to_json(t)::text FROM timeline t JOIN inside ON room_number = r
ORDER BY 1, 2"""
