"""Every route and every frame × every role and nobody × one's own things, another's and none, against a running server.

Routes, frames, roles and permissions are read from the product; by hand stands only the rule that says which answer to expect
(`expected`), and an example of each request (operations.py). Allowed means any answer but a refusal by the policy; refused means
exactly the documented one. Where a request names a thing, another's and none are refused besides, whatever the role, with 403 or
404, and one's own is not; routes that are there for others are written down (OTHERS_TOO). The checker is tested too: with one
cell of the policy opened, or one look at whose a thing is left out, it finds that and nothing else.
"""

import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio
from trio_websocket import CloseReason, ConnectionClosed

from chatty import errors
from chatty.errors import ChattyError
from chatty.ids import DeviceId, FamilyId, InvitationId, MailboxId, PasskeyId
from chatty.services import devices, permissions
from chatty.services.permissions import FRAMES, MANAGE_USERS, PERMISSIONS, PUBLIC, ROLES, Permission
from chatty.web.routes import Route, route
from chatty.wire import frames
from chatty.wire.accounts import Login
from tests.server.app_fixtures import RunningApp, open_chat, without_limits
from tests.server.operations import (
    BODIES,
    FRAME_KINDS,
    Asked,
    Example,
    Json,
    Peer,
    Things,
    absent_things,
    ask,
    examples_of,
    frame_of,
    in_path,
    link_of,
    request_of,
)
from tests.server.thing_slots import slots
from tests.server.wire_client import WireSocket, changed, open_raw_socket
from tests.server.wire_people import WireDevice
from tests.test_docs import PROTOCOL, leaf_errors, rows

NOBODY = "nobody"
HOME, ELSEWHERE = "10.1.2.3", "203.0.113.9"
POLICY = {name: replace(permission) for name, permission in PERMISSIONS.items()}  # what a test opens is not opened here
FRAME_POLICY = {kind: POLICY[permission.name] for kind, permission in FRAMES.items()}
REFUSALS = {
    one.code: one for one in (errors.Unauthenticated, errors.Forbidden, errors.StepUpRequired, errors.DeviceNotVerified)
}
# A cell whose asker was ended or held up by an earlier one shows nothing: no cell expects these.
DISTURBED = {"device_revoked", "token_expired", "invalid_dpop_proof", "use_dpop_nonce", "rate_limited", "overloaded"}
ALLOWED = "allowed"
NOT_THEIRS = "not theirs"
_IS_OPEN = "tells or takes the same of every name"
_TO_OTHERS = "there to reach others"
_BY_ROLE = "acts on others by role"
_UNPROVEN = "one's own is refused alike: nobody's authenticator made the answer"
OTHERS_TOO = {
    "post_v1_salt": _IS_OPEN,
    "post_v1_register": _IS_OPEN,
    "post_v1_login": _IS_OPEN,
    "post_v1_step_up": _UNPROVEN,
    "put_v1_blocks_user": _TO_OTHERS,
    "delete_v1_blocks_user": _TO_OTHERS,
    "post_v1_keys_query": _TO_OTHERS,
    "post_v1_keys_claim": _TO_OTHERS,
    "post_v1_to_device": _TO_OTHERS,
    "post_v1_rooms": _TO_OTHERS,
    "put_v1_admin_users_user_role": _BY_ROLE,
    "put_v1_admin_users_user_lock": _BY_ROLE,
    "delete_v1_admin_users_user_sessions": _BY_ROLE,
    "get_v1_admin_users_user_refusals": _BY_ROLE,
    "delete_v1_admin_invitations_invitation": _BY_ROLE,
    "post_v1_admin_applications_number_approve": _BY_ROLE,
    "post_v1_admin_applications_number_reject": _BY_ROLE,
}
REFUSED_WITH = {"post_v1_keys_upload": {400}}  # the keys themselves say whose they are
WHOSE = ("own", "another's", "nothing's")


@dataclass(frozen=True, kw_only=True)
class Context:
    """Beside the role. is_fresh: proved themselves a short while ago. is_home: comes from the admin networks."""

    is_fresh: bool = True
    is_home: bool = True

    @property
    def address(self) -> str:
        return HOME if self.is_home else ELSEWHERE


USUAL = Context()
CONTEXTS = [Context(is_fresh=is_fresh, is_home=is_home) for is_fresh in (True, False) for is_home in (True, False)]


def expected(permission: Permission, role: str, context: Context) -> str:
    """The rule. Nobody's device is verified."""
    if permission.roles is None:
        return ALLOWED
    if role == NOBODY:
        return errors.Unauthenticated.code
    if role not in permission.roles or (permission.needs_admin_network and not context.is_home):
        return errors.Forbidden.code
    if permission.needs_verified_device:
        return errors.DeviceNotVerified.code
    if permission.needs_step_up and not context.is_fresh:
        return errors.StepUpRequired.code
    return ALLOWED


def expected_of_things(route: Route, example: Json, whose: str) -> str:
    """Of whoever the policy lets through; of OTHERS_TOO only what nobody has can be told, and only by a path."""
    path = things_in(route.path)
    if whose == "own" or not (path or names_things(route, example)):
        return ALLOWED
    if route.operation not in OTHERS_TOO:
        return NOT_THEIRS
    return NOT_THEIRS if path and whose == "nothing's" else ALLOWED


def things_in(path: str) -> set[str]:
    """The parameters that name a thing; whoever has a receipt's token may read it."""
    return set(re.findall(r"{(\w+)}", path)) - {"token"}


def names_things(route: Route, body: Json) -> bool:
    return route.body is not None and any(slots(body, route.body))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One request and its answer."""

    operation: str
    permission: str
    role: str
    things: str
    context: Context
    expected: str
    found: str


# The world ----------------------------------------------------------------------------------------------------------

_STANDING = """CREATE UNLOGGED TABLE standing AS SELECT user_id, role FROM users;
CREATE UNLOGGED TABLE standing_passkeys AS SELECT * FROM passkeys;
CREATE UNLOGGED TABLE standing_requests AS SELECT * FROM registration_requests;
CREATE UNLOGGED TABLE standing_tokens AS SELECT * FROM registration_tokens"""
# Whatever a cell did to those who are still to ask, undone.
_MEND = """UPDATE users u SET role = s.role, is_locked = false FROM standing s WHERE s.user_id = u.user_id
 AND (u.role <> s.role OR u.is_locked);
UPDATE devices SET is_live = true, in_set = true WHERE NOT is_live;
INSERT INTO passkeys OVERRIDING SYSTEM VALUE SELECT * FROM standing_passkeys ON CONFLICT DO NOTHING;
INSERT INTO registration_requests OVERRIDING SYSTEM VALUE SELECT * FROM standing_requests ON CONFLICT DO NOTHING;
INSERT INTO registration_tokens SELECT * FROM standing_tokens ON CONFLICT DO NOTHING;
UPDATE device_send SET is_live = true WHERE NOT is_live;
UPDATE room_links SET is_revoked = false WHERE is_revoked;
UPDATE refresh_families SET is_revoked = false, stepped_up_at = now() - make_interval(secs => {age_s});
DELETE FROM revocations"""
_FAMILY = "SELECT family_id FROM refresh_families JOIN devices USING (device_number) WHERE device_id = %s"
_PASSKEYS = """INSERT INTO passkeys (user_number, credential_id, public_key, sign_count, transports, name)
SELECT user_number, 'PasskeyOf' || split_part(substr(user_id, 2), ':', 1), '', 0, '{}', '' FROM users"""
_MAILBOX_ID = "SELECT mailbox_id FROM mailbox JOIN devices USING (device_number) WHERE device_id = %s"
_INVITE = """INSERT INTO registration_tokens (token_hash, role, uses_left, expires_at, inviter_number)
SELECT sha256(user_id::bytea), 'user', 1, now() + interval '1 day', user_number FROM users WHERE user_id = %s
RETURNING encode(substr(token_hash, 1, 8), 'hex')"""
_APPLY = """INSERT INTO registration_requests
(user_id, name_skeleton, login_key_sealed, key_derivation, identity_key, wrapped_recovery, wrapped_identity)
VALUES ('@new:localhost', 'new', '', '{"algorithm": "", "memory_bytes": 1, "passes": 1}', '', '', '')
RETURNING request_number"""


@dataclass(kw_only=True)
class World:
    """One person for each role, and two more: victim, whose things are another's, and bystander, whom acts are about."""

    chat: RunningApp
    connection: psycopg.Connection[Any]
    people: dict[str, WireDevice]
    own: dict[str, Things]
    another: Things
    context: Context = USUAL

    @property
    def routes(self) -> Sequence[Route]:
        return self.chat.app.routes

    async def mend(self) -> None:
        await self.execute(_MEND.format(age_s=1 if self.context.is_fresh else 3_600))

    async def execute(self, sql: str, *parameters: Any) -> Any:
        """The first row, if there is any. In a thread: a row may be locked by the server, which runs in this one."""

        def act() -> Any:
            found = self.connection.execute(sql.encode(), parameters or None)
            return found.fetchone() if found.description else None

        return await trio.to_thread.run_sync(act)

    def things(self, whose: str, role: str) -> Things:
        if whose == "own":
            return self.own["user" if role == NOBODY else role]
        return self.another if whose == "another's" else absent_things()

    def asker(self, role: str) -> WireDevice:
        """Who makes the request; nobody's is made by somebody and shown without a token."""
        return self.people["user" if role == NOBODY else role]


@asynccontextmanager
async def open_world(database: str, folder: Path) -> AsyncIterator[World]:
    async with open_chat(
        database,
        folder,
        admin_networks="10.0.0.0/8",
        trusted_proxies="127.0.0.1",
        quota_devices="1000",
        **without_limits(),
    ) as chat:
        with psycopg.connect(database, autocommit=True) as connection:
            yield await make_world(chat, connection)


async def make_world(chat: RunningApp, connection: psycopg.Connection[Any]) -> World:
    people = {role: await chat.sign_up(f"the-{role}") for role in ROLES}
    victim, bystander = await chat.sign_up_all("victim", "bystander")
    world = World(chat=chat, connection=connection, people=people, own={}, another=absent_things())
    [application] = await world.execute(_APPLY)
    for role, one in [*people.items(), ("", victim)]:
        await bystander.send_to_devices(one)
        things = await _things_of(world, one, bystander, application)
        if role:
            world.own[role] = things
            await world.execute("UPDATE users SET role = %s WHERE user_id = %s", role, one.user)
        else:
            world.another = things
    await world.execute(_PASSKEYS)
    await world.execute(_STANDING)
    return world


async def _things_of(world: World, one: WireDevice, bystander: WireDevice, application: int) -> Things:
    [family] = await world.execute(_FAMILY, one.device)
    [invitation] = await world.execute(_INVITE, one.user)
    [mailbox_id] = await world.execute(_MAILBOX_ID, one.device)
    room = await one.create_room()
    await room.make_link(one, link=link_of(room.id), lifetime_s=86_400)
    return Things(
        user=one.user,
        peer=Peer(user=bystander.user, identity_key=bystander.identity_key),
        device=one.device,
        room=room.id,
        family=FamilyId(family),
        passkey=PasskeyId(f"PasskeyOf{one.person.name}"),
        application=application,
        invitation=InvitationId(invitation),
        mailbox_id=MailboxId(mailbox_id),
    )


# The walk over HTTP -------------------------------------------------------------------------------------------------


async def walk_routes(world: World, context: Context = USUAL, *, routes: Collection[Route] | None = None) -> list[Cell]:
    """routes: None: all of them."""
    world.context = context
    await world.mend()
    return [cell for route in routes or world.routes async for cell in _cells_of(world, route)]


async def _cells_of(world: World, route: Route) -> AsyncIterator[Cell]:
    is_about_things = bool(things_in(route.path)) or route.operation in BODIES
    for role in (*ROLES, NOBODY):
        for whose in WHOSE if is_about_things and world.context == USUAL else ("another's",):
            for example in examples_of(route) if world.context == USUAL else examples_of(route)[:1]:
                asked, answer = await _asked(world, route, role, world.things(whose, role), example)
                of_policy = expected(POLICY[route.permission.name], role, world.context)
                of_things = expected_of_things(route, asked.body or {}, whose)
                is_bound = of_things == NOT_THEIRS or route.operation not in OTHERS_TOO
                yield Cell(
                    operation=route.operation,
                    permission=route.permission.name,
                    role=role,
                    things=whose,
                    context=world.context,
                    expected=of_things if of_policy == ALLOWED else of_policy,
                    found=verdict(route, answer, is_bound=is_bound and is_about_things),
                )


async def _asked(
    world: World, route: Route, role: str, things: Things, example: Example
) -> tuple[Asked, httpx.Response]:
    asker = world.asker(role)
    asked = await request_of(route, asker, things, example)
    headers = {"X-Forwarded-For": world.context.address}
    answer = await ask(asker, asked, is_signed_in=role != NOBODY, headers=headers)
    if answer.is_success and route.method != "GET":
        await world.mend()
    return asked, answer


def verdict(route: Route, answer: httpx.Response, *, is_bound: bool) -> str:
    """allowed, or the code of a refusal, which is then exactly the documented one. is_bound: whose the thing is counts."""
    if answer.is_success:
        return ALLOWED
    problem = answer.json()
    code = str(problem["code"])
    if code in DISTURBED or answer.status_code == 500:
        return code
    if code not in REFUSALS:
        refused_with = {403, 404} | REFUSED_WITH.get(route.operation, set())
        return NOT_THEIRS if is_bound and answer.status_code in refused_with else ALLOWED
    kind: type[ChattyError] = REFUSALS[code]
    assert kind in route.errors, f"{route.operation} does not say that it may answer {code}"
    assert (answer.status_code, answer.headers["Content-Type"]) == (kind.http_status, "application/problem+json")
    assert ("WWW-Authenticate" in answer.headers) == (kind is errors.Unauthenticated)
    assert problem["is_retryable"] is False
    return code


# The walk on sockets ------------------------------------------------------------------------------------------------

FRAME_CONTEXTS = [Context(is_fresh=is_fresh, is_home=False) for is_fresh in (True, False)]  # sockets come from here
_GREETINGS = (frames.Hello, frames.Cursors)  # each on a socket of its own, before the welcome


async def walk_frames(world: World, context: Context = FRAME_CONTEXTS[0]) -> list[Cell]:
    world.context = context
    await world.mend()
    return [cell for role in (*ROLES, NOBODY) async for cell in _frame_cells_of(world, role)]


async def _frame_cells_of(world: World, role: str) -> AsyncIterator[Cell]:
    greeting = await _found(world, frames.Hello, role, "own")
    for whose in WHOSE if world.context == FRAME_CONTEXTS[0] else ("another's",):
        for kind in FRAME_KINDS if greeting != ALLOWED else _GREETINGS:
            yield _frame_cell(world, kind, role, whose, await _found(world, kind, role, whose))
    if greeting == ALLOWED:
        async for cell in _cells_on_one_socket(world, role):
            yield cell


async def _cells_on_one_socket(world: World, role: str) -> AsyncIterator[Cell]:
    device = world.asker(role)
    async with open_raw_socket(world.chat.origin, device=device) as socket:
        await socket.ask(socket.hello())
        for kind in FRAME_KINDS:
            for whose in WHOSE if kind not in _GREETINGS else ():
                frame = frame_of(kind, device, world.things(whose, role), socket.request_id())
                yield _frame_cell(world, kind, role, whose, await _answer(socket, frame))


async def _found(world: World, kind: type[Any], role: str, whose: str) -> str:
    """On a socket of its own: before hello for nobody, before the welcome for greetings, and otherwise refused at hello."""
    device, things = world.asker(role), world.things(whose, role)
    async with open_raw_socket(world.chat.origin, device=device) as socket:
        frame = frame_of(kind, device, things, socket.request_id())
        if isinstance(frame, frames.Hello):
            return await _answer(socket, changed(frame, access_token="forged") if role == NOBODY else frame)
        if role == NOBODY:
            return await _answer(socket, frame)
        hello = changed(socket.hello(), more=isinstance(frame, frames.Cursors))
        await socket.write(hello)
        return await (_answer(socket, frame) if hello.more else _outcome(socket, hello.id))


def _frame_cell(world: World, kind: type[Any], role: str, whose: str, found: str) -> Cell:
    return Cell(
        operation=kind.__name__,
        permission=FRAME_POLICY[kind].name,
        role=role,
        things=whose,
        context=world.context,
        expected=expected_of_frame(kind, role, world.context),
        found=found,
    )


def expected_of_frame(kind: type[Any], role: str, context: Context) -> str:
    """Who may not say hello gets no further; nobody can say hello, and whoever does not is told to."""
    if role == NOBODY and kind is not frames.Hello:
        return errors.HelloExpected.code
    greeting = expected(FRAME_POLICY[frames.Hello], role, context)
    return greeting if greeting != ALLOWED else expected(FRAME_POLICY[kind], role, context)


async def _answer(socket: WireSocket, request: frames.ClientFrame) -> str:
    await socket.write(request)
    return await _outcome(socket, request.id)


async def _outcome(socket: WireSocket, request_id: int) -> str:
    """Of a request that is answered, or refused together with the connection; that is closed as documented then."""
    try:
        answer = await socket.answer(request_id)
    except ConnectionClosed as closed:
        return _refusal(socket, closed.reason)
    if isinstance(answer, frames.Error) and answer.code in {*REFUSALS, *DISTURBED, errors.InternalError.code}:
        return answer.code
    return ALLOWED


def _refusal(socket: WireSocket, reason: CloseReason | None) -> str:
    [error] = [event for event in socket.pending if isinstance(event, frames.Error)]
    assert reason is not None
    assert (error.id, error.code) == (0, reason.reason)
    [kind] = [one for one in leaf_errors(ChattyError) if one.code == error.code]
    assert reason.code == (kind.close_code or 4411)
    return error.code


# The tests ----------------------------------------------------------------------------------------------------------


def wrong(cells: Collection[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.found != cell.expected]


def check(cells: Collection[Cell], operations: Collection[str]) -> set[str]:
    """Every cell is right and nothing was left out. Returns the kinds of answers that there were."""
    assert wrong(cells) == []
    walked = Counter((cell.operation, cell.role) for cell in cells)
    assert set(walked) == {(operation, role) for operation in operations for role in (*ROLES, NOBODY)}
    return {cell.found for cell in cells}


async def test_every_route_answers_every_role_as_the_policy_says(database: str, tmp_path: Path) -> None:
    async with open_world(database, tmp_path) as world:
        cells = await walk_routes(world)
        answers = check(cells, [route.operation for route in world.routes])
        assert answers == {ALLOWED, NOT_THEIRS, "unauthenticated", "forbidden"}
        about_things = [cell for cell in cells if cell.operation == "get_v1_rooms_room_members" and cell.role == "bot"]
        assert [cell.things for cell in about_things] == list(WHOSE)


@pytest.mark.long
async def test_a_stale_proof_and_a_foreign_network_are_refused_where_the_policy_says(
    database: str, tmp_path: Path, counts: Callable[[int, int], int], seed: int
) -> None:
    unusual = [one for one in CONTEXTS if one != USUAL]
    async with open_world(database, tmp_path) as world:
        operations = [route.operation for route in world.routes]
        for context in random.Random(seed).sample(unusual, counts(1, len(unusual))):
            answers = check(await walk_routes(world, context), operations)
            assert ("step_up_required" in answers) is not context.is_fresh


async def test_every_frame_answers_every_role_as_the_policy_says(database: str, tmp_path: Path) -> None:
    async with open_world(database, tmp_path) as world:
        for context in FRAME_CONTEXTS:
            answers = check(await walk_frames(world, context), [kind.__name__ for kind in FRAME_KINDS])
            assert answers == {ALLOWED, "unauthenticated", "forbidden", "hello_expected"}


async def test_nothing_is_served_but_the_routes_and_the_socket(database: str, tmp_path: Path) -> None:
    async with open_world(database, tmp_path) as world:
        served = {(rule.endpoint, rule.rule) for rule in world.chat.app.quart.url_map.iter_rules()}
        wanted = {(route.operation, re.sub(r"\{(\w+)\}", r"<\1>", route.path)) for route in world.routes}
        assert served == wanted | {("gateway", "/v1/ws")}


async def test_the_checker_finds_a_role_that_was_let_in(database: str, tmp_path: Path) -> None:
    async with open_world(database, tmp_path) as world:
        with opened(MANAGE_USERS, roles=frozenset({"owner", "admin", "auditor"})):
            found = wrong(await walk_routes(world, routes=some_routes(world, manages_users)))
        managing = {route.operation for route in filter(manages_users, world.routes)}
        assert {cell.operation for cell in found} == managing
        assert {(cell.permission, cell.role, cell.expected, cell.found) for cell in found} == {
            ("manage_users", "auditor", "forbidden", found) for found in (ALLOWED, NOT_THEIRS)
        }


@pytest.mark.parametrize(
    ("need", "context", "code"),
    [
        ("needs_step_up", Context(is_fresh=False), "step_up_required"),
        ("needs_admin_network", Context(is_home=False), "forbidden"),
    ],
)
async def test_the_checker_finds_a_need_that_was_dropped(
    database: str, tmp_path: Path, need: str, context: Context, code: str
) -> None:
    async with open_world(database, tmp_path) as world:
        with opened(MANAGE_USERS, **{need: False}):
            found = wrong(await walk_routes(world, context, routes=some_routes(world, manages_users)))
        assert {(cell.permission, cell.role, cell.expected, cell.found) for cell in found} == {
            ("manage_users", role, code, ALLOWED) for role in ("owner", "admin")
        }


async def test_the_checker_finds_a_look_at_whose_a_thing_is_that_was_left_out(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(database, tmp_path) as world:
        looked_for = devices._find

        def found_for_all(live: Sequence[devices.StoredDevice], device: DeviceId) -> devices.StoredDevice | None:
            """Somebody else's device is taken for the caller's first."""
            return looked_for(live, device) or (live[0] if device == world.another.device else None)

        with monkeypatch.context() as patch:
            patch.setattr(devices, "_find", found_for_all)
            found = wrong(await walk_routes(world, routes=some_routes(world, lambda route: "devices" in route.path)))
        assert {(cell.operation, cell.role, cell.things, cell.expected, cell.found) for cell in found} == {
            (operation, role, "another's", NOT_THEIRS, ALLOWED)
            for operation in ("put_v1_devices_device_name", "delete_v1_devices_device")
            for role in ROLES
        }


async def test_each_exception_is_a_route_that_names_things(database: str, tmp_path: Path) -> None:
    async with open_world(database, tmp_path) as world:
        naming = {route.operation for route in world.routes if things_in(route.path) or route.operation in BODIES}
        assert set(OTHERS_TOO) | set(REFUSED_WITH) <= naming


def manages_users(route: Route) -> bool:
    return route.permission is MANAGE_USERS


def some_routes(world: World, is_wanted: Callable[[Route], bool]) -> list[Route]:
    """Those, and of the others every fourth: what a checker is tested on, for the whole walk has a test of its own."""
    others = [route for route in world.routes if not is_wanted(route)]
    return [*filter(is_wanted, world.routes), *others[::4]]


@contextmanager
def opened(permission: Permission, **changes: Any) -> Iterator[None]:
    """For the server alone, in whose tables this very object stands."""
    before = {name: getattr(permission, name) for name in changes}
    try:
        for name, value in changes.items():
            object.__setattr__(permission, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(permission, name, value)


async def test_the_checker_finds_a_frame_that_was_opened_or_shut(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the socket hello opens all the rest, so its cell alone is wrong when it is opened; one that is shut is seen too."""
    async with open_world(database, tmp_path) as world:
        for kind, roles, wanted in (
            (frames.Hello, frozenset(ROLES), {("Hello", "auditor", "forbidden", ALLOWED)}),
            (frames.Cursors, frozenset(ROLES) - {"auditor", "bot"}, {("Cursors", "bot", ALLOWED, "forbidden")}),
            (frames.Ping, frozenset(ROLES) - {"auditor", "bot"}, {("Ping", "bot", ALLOWED, "forbidden")}),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(permissions, "FRAMES", {**FRAMES, kind: replace(FRAMES[kind], roles=roles)})
                found = wrong(await walk_frames(world))
            assert {(cell.operation, cell.role, cell.expected, cell.found) for cell in found} == wanted


async def test_a_route_without_an_example_is_told_apart() -> None:
    async def with_a_body(body: Login) -> Login:
        """One more."""
        return body

    async def with_a_thing(thing: str) -> Login:
        """One more."""
        raise NotImplementedError

    with pytest.raises(AssertionError, match="post_v1_new has no example"):
        examples_of(route("POST", "/v1/new", permission=PUBLIC)(with_a_body))
    with pytest.raises(KeyError, match="thing"):
        route("GET", "/v1/{thing}", permission=PUBLIC)(with_a_thing).path.format_map(in_path(absent_things()))


async def test_no_server_starts_while_a_frame_has_no_permission(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, "FRAMES", {kind: one for kind, one in FRAMES.items() if kind is not frames.Send})
    with pytest.RaisesGroup(pytest.RaisesExc(TypeError, match="Send"), flatten_subgroups=True):
        async with open_world(database, tmp_path):
            pass


async def test_the_documentation_names_each_route_with_its_permission_and_no_other(
    database: str, tmp_path: Path
) -> None:
    async with open_world(database, tmp_path) as world:
        wanted = {(f"{one.method} {one.path}", one.permission.name.replace("_", " ")) for one in world.routes}
    told = set()
    for row in rows(PROTOCOL, "HTTP"):
        cells = row.split("|")
        for name in re.findall(r"`([^`]+)`", cells[1]):
            method, _, path = name.rpartition(" ")
            told.add((f"{method or 'GET'} {path.partition('?')[0]}", cells[2].strip()))
    assert told == wanted
