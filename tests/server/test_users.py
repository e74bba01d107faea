"""Looking after users over HTTP: who may do what to whom, and what becomes of sockets, tokens and sends."""

import base64
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio
from trio_websocket import ConnectionClosed

from chatty.app import Hooks
from chatty.errors import DeviceRevoked, Forbidden, LastOwner, Outranked
from chatty.ids import DeviceId, FamilyId
from chatty.services.caller import Caller
from chatty.services.sessions import NewFamily
from chatty.telemetry import configure_logging
from chatty.wire.accounts import NewDevice
from tests.people import Person, outcome
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import as_url, chatty_admin, chatty_admin_json
from tests.server.conftest import RunningServer
from tests.server.wire_client import Refused, WireSocket, ciphertext, ciphertext_of, open_live_socket, open_raw_socket
from tests.server.wire_people import WireDevice, WireRoom, sign_in

MASTER_KEY = base64.b64encode(b"m" * 32).decode()
_COMMITTED = "SELECT count(*) FROM timeline WHERE kind = 'message'"
_ACTS = "SELECT action, actor, object, detail, before, after FROM audit WHERE action LIKE 'user.%%' ORDER BY audit_id"


async def set_role(by: WireDevice, who: WireDevice, role: str) -> str:
    return outcome(await by.answer("PUT", f"/v1/admin/users/{who.user}/role", {"role": role}))


async def set_locked(by: WireDevice, who: WireDevice, is_locked: bool = True) -> str:
    return outcome(await by.answer("PUT", f"/v1/admin/users/{who.user}/lock", {"is_locked": is_locked}))


async def end_sessions(by: WireDevice, who: WireDevice) -> dict[str, Any]:
    answer: dict[str, Any] = (await by.answer("DELETE", f"/v1/admin/users/{who.user}/sessions")).json()
    return answer


async def roles(chat: RunningApp) -> dict[str, str]:
    return dict(await chat.rows("SELECT user_id, role FROM users"))


# Listing ------------------------------------------------------------------------------------------------------------


async def test_users_are_listed_page_by_page(chat: RunningApp) -> None:
    names = ["ann", "bob", "cid", "dan"]
    await chat.sign_up_all(*names)
    auditor, locked = await chat.sign_up_as("auditor", "eve"), await chat.sign_up_as("bot", "fay")
    await chat.execute("UPDATE users SET is_locked = true WHERE user_id = %s", locked.user)
    found, after = [], ""
    while True:
        page = await auditor.get(f"/v1/admin/users?limit=4&after={after}")
        found += page["users"]
        after = page.get("next_after", "")
        if not after:
            break
    assert [one["user"] for one in found] == [f"@{name}:localhost" for name in [*names, "eve", "fay"]]
    assert [(one["role"], one["is_locked"]) for one in found[3:]] == [
        ("user", False),
        ("auditor", False),
        ("bot", True),
    ]
    assert found[0].keys() == {"user", "role", "is_locked", "created_day"}


# Roles --------------------------------------------------------------------------------------------------------------


async def test_only_owners_make_and_unmake_owners_admins_and_auditors(chat: RunningApp) -> None:
    owner, admin = await chat.sign_up_as("owner"), await chat.sign_up_as("admin")
    ann = await chat.sign_up("ann")
    for role in ("owner", "admin", "auditor"):
        assert await set_role(admin, ann, role) == "outranked"
        assert await set_role(owner, ann, role) == "ok"
        assert await set_role(admin, ann, "user") == "outranked"
        assert await set_role(owner, ann, "user") == "ok"
    for role in ("moderator", "bot", "user"):
        assert await set_role(admin, ann, role) == "ok"
        assert (await roles(chat))[ann.user] == role


async def test_nobody_changes_an_equal_or_a_superior(chat: RunningApp) -> None:
    people = {role: await chat.sign_up_as(role) for role in ("owner", "admin", "moderator")}
    people |= {
        f"other {role}": await chat.sign_up_as(role, f"other-{role}") for role in ("owner", "admin", "moderator")
    }
    found = {}
    for by in ("admin", "moderator"):
        for whom in (by, f"other {by}", "owner", "admin"):
            found[by, whom] = {
                await set_locked(people[by], people[whom]),
                (await end_sessions(people[by], people[whom]))["code"],
            }
            if by == "admin":
                found[by, whom].add(await set_role(people[by], people[whom], "user"))
    assert set.union(*found.values()) == {"outranked"}
    assert await set_role(people["owner"], people["other owner"], "admin") == "ok"
    assert await set_locked(people["owner"], people["other admin"]) == "ok"


async def test_the_last_owner_stays(chat: RunningApp) -> None:
    owner, other = await chat.sign_up_as("owner"), await chat.sign_up_as("owner", "other-owner")
    assert await set_locked(owner, other) == "ok"
    assert await set_role(owner, owner, "user") == "last_owner"
    assert await set_locked(owner, owner) == "last_owner"
    assert await set_locked(owner, other, False) == "ok"
    assert await set_role(owner, owner, "user") == "ok"
    assert set((await roles(chat)).values()) == {"owner", "user"}


async def test_two_last_owners_do_not_unmake_each_other(running: RunningServer) -> None:
    """By the operator, who locks neither's row for acting: only the server's own lock is left to keep them apart."""
    people = [running.person(name) for name in ("ann", "bob")]
    for one in people:
        await one.register()
    refused: list[LastOwner] = []

    async def unmake(one: Person, how: str) -> None:
        try:
            if how == "lock":
                await running.steps.users.set_locked(None, one.user, True)
            else:
                await running.steps.users.set_role(None, one.user, "user")
        except LastOwner as error:
            refused.append(error)

    for how in ("lock", "role") * 5:
        refused.clear()
        async with running.pool.transaction() as connection:
            await connection.execute("UPDATE users SET role = 'owner', is_locked = false")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unmake, people[0], how)
            nursery.start_soon(unmake, people[1], "role")
        assert len(refused) == 1
        assert await running.rows("SELECT count(*) FROM users WHERE role = 'owner' AND NOT is_locked") == [(1,)]


async def test_whoever_lost_the_right_meanwhile_is_refused_in_the_transaction(running: RunningServer) -> None:
    """Between the policy's check and the locks anything may have happened: the caller here was made before."""
    users = running.steps.users
    ann, bob, root = running.person("ann"), running.person("bob"), running.person("zoe")
    for one, role in ((ann, "admin"), (bob, "user"), (root, "owner")):
        await one.register()
        async with running.pool.transaction() as connection:
            await connection.execute("UPDATE users SET role = %s WHERE user_id = %s", (role, one.user))
    admin, owner = await running.caller(ann), await running.caller(root)
    await users.set_role(admin, bob.user, "bot")

    async def refused(kind: type[Exception], by: Caller = admin) -> None:
        with pytest.raises(kind):
            await users.set_role(by, bob.user, "moderator")
        with pytest.raises(kind):
            await users.set_locked(by, bob.user, True)

    await users.set_role(owner, ann.user, "user")
    await refused(Forbidden)
    await users.set_role(owner, ann.user, "moderator")
    with pytest.raises(Forbidden):
        await users.set_role(admin, bob.user, "user")
    await users.set_role(owner, ann.user, "admin")
    await users.set_role(owner, bob.user, "owner")
    await refused(Outranked)
    await users.set_role(owner, bob.user, "user")
    await users.set_locked(owner, ann.user, True)
    await refused(DeviceRevoked)
    await users.set_locked(owner, ann.user, False)
    await refused(DeviceRevoked)
    assert await running.rows("SELECT role, is_locked FROM users WHERE user_id = %s", bob.user) == [("user", False)]


async def test_a_new_role_counts_at_once_over_http(chat: RunningApp) -> None:
    owner, ann = await chat.sign_up_as("owner"), await chat.sign_up("ann")
    assert outcome(await ann.answer("GET", "/v1/admin/users")) == "forbidden"
    await set_role(owner, ann, "auditor")
    assert outcome(await ann.answer("GET", "/v1/admin/users")) == "ok"
    assert outcome(await ann.answer("GET", "/v1/rooms")) == "forbidden"


async def test_a_new_role_reaches_open_sockets_within_a_second(database: str, tmp_path: Path) -> None:
    small, large = ciphertext_of(1_000), ciphertext_of(2_000)
    async with open_chat(database, tmp_path, quota_message_bytes="1000, bot 2000") as chat:
        owner, ann, bob = await chat.sign_up_as("owner"), await chat.sign_up("ann"), await chat.sign_up("bob")
        room = await ann.create_room()
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
            await anns.send(room.id, small, epoch=room.epoch)
            with pytest.raises(Refused, match="too_large"):
                await anns.send(room.id, large, epoch=room.epoch)
            began = time.monotonic()
            await set_role(owner, ann, "bot")
            await until_sent(anns, room, large)
            assert time.monotonic() - began < 1
            began = time.monotonic()
            await set_role(owner, ann, "auditor")
            assert await ended_with(anns) == (4411, "forbidden")
            assert time.monotonic() - began < 1
            await bobs.settle()  # nobody else noticed


async def until_sent(socket: WireSocket, room: WireRoom, body: bytes) -> None:
    """Again and again under one number, as long as it is too large."""
    n, code = socket.device.take_n(), "too_large"
    with trio.fail_after(10):
        while code == "too_large":
            try:
                await socket.send(room.id, body, epoch=room.epoch, n=n)
                return
            except Refused as error:
                code = error.code
    raise AssertionError(code)


async def ended_with(socket: WireSocket) -> tuple[int, str]:
    reason = await socket.closed()
    return reason.code, reason.reason or ""


# Locks --------------------------------------------------------------------------------------------------------------


async def test_a_lock_ends_everything_and_an_unlock_revives_nothing(chat: RunningApp) -> None:
    moderator, ann = await chat.sign_up_as("moderator"), await chat.sign_up("ann")
    phone, bob = await sign_in(ann), await chat.sign_up("bob")
    room = await bob.create_room(ann)
    async with open_live_socket(ann) as one, open_live_socket(phone) as two, open_live_socket(bob) as bobs:
        began = time.monotonic()
        assert await set_locked(moderator, ann) == "ok"
        assert {await ended_with(one), await ended_with(two)} == {(4403, "device_revoked")}
        assert time.monotonic() - began < 1
        with pytest.raises(Refused, match="device_set_stale"):  # nobody encrypts for the dead devices any more
            await bobs.send(room.id, ciphertext(), epoch=room.epoch)
    for log_in in ("login_refused", "ok"):
        for device in (ann, phone):
            assert outcome(await device.answer("GET", "/v1/account")) == "device_revoked"
            assert outcome(await device.person.refresh(device.tokens["refresh_token"])) == "refresh_refused"
            async with open_raw_socket(chat.origin, device=device) as socket:
                await socket.write(socket.hello())
                assert await ended_with(socket) == (4403, "device_revoked")
        assert outcome(await ann.person.log_in()) == log_in
        await set_locked(moderator, ann, False)
    assert outcome(await ann.person.ask("GET", "/v1/account")) == "ok"
    assert len((await ann.person.ask("GET", "/v1/devices")).json()["devices"]) == 1


async def test_after_a_lock_the_journal_takes_nothing_of_the_user(chat: RunningApp) -> None:
    """Sends under way at the lock are before it or refused: once the lock is answered none is committed."""
    owner, ann = await chat.sign_up_as("owner"), await chat.sign_up("ann")
    phone = await sign_in(ann)
    room = await ann.create_room()
    over_http, over_socket = Progress(), Progress()

    async def send_over_http() -> None:
        """Until it is refused."""
        while True:
            n = ann.take_n()
            body = {"low": n, "epoch": room.epoch, "algorithm": "m.megolm.v1.aes-sha2", "session_id": "S" * 43}
            answer = await ann.answer("POST", f"/v1/rooms/{room.id}/messages", {**body, "body": ciphertext()}, n=n)
            if not answer.is_success:
                assert outcome(answer) == "device_revoked"
                return
            ann.settle(n)
            over_http.note()

    async def send_over_socket(socket: WireSocket) -> None:
        """Until it is refused or closed."""
        with suppress(Refused, ConnectionClosed):
            while True:
                await socket.send(room.id, ciphertext(), epoch=room.epoch)
                over_socket.note()

    async with open_live_socket(phone) as socket, trio.open_nursery() as nursery:
        nursery.start_soon(send_over_http)
        nursery.start_soon(send_over_socket, socket)
        with trio.fail_after(20):
            await over_http.many.wait()
            await over_socket.many.wait()
        assert await set_locked(owner, ann) == "ok"
        committed = await chat.rows(_COMMITTED)
    assert await chat.rows(_COMMITTED) == committed
    assert committed[0][0] >= over_http.count + over_socket.count


class Progress:
    """How often something was done; `many`: often enough to be under way."""

    def __init__(self) -> None:
        self.count = 0
        self.many = trio.Event()

    def note(self) -> None:
        self.count += 1
        if self.count == 5:
            self.many.set()


async def test_a_locked_member_can_be_put_out_and_nobody_lets_a_locked_user_in(chat: RunningApp) -> None:
    owner, ann, bob = await chat.sign_up_as("owner"), await chat.sign_up("ann"), await chat.sign_up("bob")
    room, other = await ann.create_room(bob), await ann.create_room()
    await set_locked(owner, bob)
    for act in (other.invite(ann, bob), ann.create_direct(bob)):
        with pytest.raises(Exception, match="not_found"):
            await act
    await room.kick(ann, bob)
    assert [one["user"] for one in (await ann.get(f"/v1/rooms/{room.id}/members"))["members"]] == [ann.user]


async def test_a_log_in_beside_a_change_of_role_is_not_refused(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    body = await ann.login()
    answers: list[httpx.Response] = []

    async def log_in() -> None:
        answers.append(await running.http.post("/v1/login", json=body))

    async with trio.open_nursery() as nursery, running.store.units.begin() as unit:
        found = await unit.users.find(ann.user)
        assert found is not None
        await unit.users.lock([found.number])
        nursery.start_soon(log_in)
        await until_somebody_waits(running)
        await unit.users.set_role(found.number, "bot")
    assert [outcome(answer) for answer in answers] == ["ok"]


async def test_a_lock_ends_the_device_of_a_log_in_that_was_under_way(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    async with trio.open_nursery() as nursery, running.store.units.begin() as log_in:
        found = await log_in.users.find(ann.user)
        assert found is not None
        await log_in.users.lock([found.number])
        nursery.start_soon(running.steps.users.set_locked, None, ann.user, True)
        await until_somebody_waits(running)
        family = NewFamily(family=FamilyId("late"), dpop_thumbprint="T" * 43, generation=1)
        await log_in.sessions.add_session(found.number, NewDevice(device=DeviceId("LATEDEVICE")), family)
    assert await running.rows("SELECT count(*), count(*) FILTER (WHERE is_live) FROM devices") == [(2, 0)]


async def until_somebody_waits(running: RunningServer) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while await running.rows(waiting) == [(0,)]:
        pass


# Ending sessions ----------------------------------------------------------------------------------------------------


async def test_all_sessions_of_a_user_end_and_the_user_may_come_back(chat: RunningApp) -> None:
    admin, ann = await chat.sign_up_as("admin"), await chat.sign_up("ann")
    phone = await sign_in(ann)
    async with open_live_socket(ann) as one, open_live_socket(phone) as two:
        assert await end_sessions(admin, ann) == {"ended_count": 2}
        assert {await ended_with(one), await ended_with(two)} == {(4403, "device_revoked")}
    assert await end_sessions(admin, ann) == {"ended_count": 0}
    again = await sign_in(ann)
    assert (await again.get("/v1/account"))["user"] == ann.user
    assert (await end_sessions(admin, ann))["ended_count"] == 1


async def test_each_act_is_in_the_audit_log_with_before_and_after(chat: RunningApp) -> None:
    owner, ann = await chat.sign_up_as("owner"), await chat.sign_up("ann")
    for _ in range(2):  # what changes nothing is no act
        await set_role(owner, ann, "moderator")
        await end_sessions(owner, ann)
    for is_locked in (True, True, False, False):
        await set_locked(owner, ann, is_locked)
    await sign_in(ann)
    await set_locked(owner, ann)
    await set_role(ann, owner, "user")
    acts = await chat.rows(_ACTS)
    assert {(actor, object_) for _, actor, object_, *_ in acts} == {(owner.user, ann.user)}
    assert [(action, *states) for action, _, _, *states in acts] == [
        ("user.role_changed", {}, {"role": "user"}, {"role": "moderator"}),
        ("user.sessions_ended", {}, {"sessions_count": 1}, {"sessions_count": 0}),
        ("user.locked", {"ended_count": 0}, {"is_locked": False}, {"is_locked": True}),
        ("user.unlocked", {"ended_count": 0}, {"is_locked": True}, {"is_locked": False}),
        ("user.locked", {"ended_count": 1}, {"is_locked": False}, {"is_locked": True}),
    ]


async def test_what_fails_leaves_nothing_and_no_audit_row(running: RunningServer) -> None:
    """State, end of sessions and audit row are one transaction."""
    ann = running.person()
    await ann.register()
    async with running.pool.transaction() as connection:
        await connection.execute("ALTER TABLE audit ADD CHECK (action NOT LIKE 'user.%')")
    for act in (
        running.steps.users.set_role(None, ann.user, "bot"),
        running.steps.users.set_locked(None, ann.user, True),
        running.steps.users.end_sessions(None, ann.user),
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await act
    assert await running.rows("SELECT role, is_locked FROM users") == [("user", False)]
    assert outcome(await ann.ask("GET", "/v1/account")) == "ok"
    assert running.doorbells.heard == []


# Other nodes --------------------------------------------------------------------------------------------------------


async def test_roles_and_locks_reach_the_sockets_of_another_node_within_a_second(database: str, tmp_path: Path) -> None:
    """Two applications on one database that tell each other nothing."""
    hooks = Hooks(is_bus_silent=True)
    async with (
        open_chat(database, tmp_path / "one", hooks=hooks, master_key=MASTER_KEY) as here,
        open_chat(database, tmp_path / "two", hooks=hooks, master_key=MASTER_KEY) as there,
    ):
        owner = await here.sign_up_as("owner")
        ann, bob, cid = await there.sign_up_all("ann", "bob", "cid")
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs, open_live_socket(cid) as cids:
            began = time.monotonic()
            assert await set_locked(owner, ann) == "ok"
            assert await set_role(owner, bob, "auditor") == "ok"
            assert await ended_with(anns) == (4403, "device_revoked")
            assert await ended_with(bobs) == (4411, "forbidden")
            assert time.monotonic() - began < 2  # each within one; the machine is not ours alone
            await cids.settle()


# The console --------------------------------------------------------------------------------------------------------


async def console(chat: RunningApp, *words: str) -> dict[str, Any]:
    return await chatty_admin_json(chat.settings.data_dir, "users", *words)


@pytest.mark.usefixtures("logging_as_before")
async def test_the_operator_gives_roles_locks_and_ends_sessions(database: str, tmp_path: Path) -> None:
    configure_logging("error")  # to stderr: the commands answer on stdout
    async with open_chat(database, tmp_path) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        assert await console(chat, "role", ann.user, "owner") == {"user": ann.user, "role": "owner"}
        async with open_live_socket(bob) as socket:
            assert await console(chat, "lock", "--yes", bob.user) == {"user": bob.user, "is_locked": True}
            assert await ended_with(socket) == (4403, "device_revoked")
        assert await console(chat, "unlock", bob.user) == {"user": bob.user, "is_locked": False}
        again = await sign_in(bob)
        async with open_live_socket(again) as socket:
            ended = await console(chat, "end-sessions", "--yes", bob.user)
            assert ended == {"user": bob.user, "ended_count": 1}
            assert await ended_with(socket) == (4403, "device_revoked")
        acts = await chat.rows(_ACTS)
        assert [(action, actor, object_) for action, actor, object_, *_ in acts] == [
            ("user.role_changed", "", ann.user),
            ("user.locked", "", bob.user),
            ("user.unlocked", "", bob.user),
            ("user.sessions_ended", "", bob.user),
        ]
        for words in (("role", ann.user, "user"), ("lock", "--yes", ann.user)):
            refused = await chatty_admin(chat.settings.data_dir, "users", *words)
            assert (refused.exit_code, refused.stderr.split(":")[0]) == (1, "error last_owner")
        nobody = await chatty_admin(chat.settings.data_dir, "users", "unlock", "@nobody:localhost")
        assert (nobody.exit_code, nobody.stderr.split(":")[0]) == (1, "error not_found")
        assert (await chatty_admin(chat.settings.data_dir, "users", "role", ann.user, "king")).exit_code == 2


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("command", ["lock", "end-sessions"])
async def test_what_destroys_is_confirmed(database: str, tmp_path: Path, command: str) -> None:
    configure_logging("error")
    async with open_chat(database, tmp_path) as chat:
        ann = await chat.sign_up("ann")
        refused = await chatty_admin(chat.settings.data_dir, "users", command, ann.user)
        assert (refused.exit_code, refused.stderr.splitlines()[0].split(":")[0]) == (4, "error not_confirmed")
        assert refused.stdout == ""
        assert (await ann.get("/v1/account"))["user"] == ann.user


@pytest.mark.usefixtures("logging_as_before")
async def test_a_user_is_locked_while_no_server_runs(database: str, tmp_path: Path) -> None:
    configure_logging("error")
    async with open_chat(database, tmp_path) as chat:
        ann = await chat.sign_up("ann")
        data_dir = chat.settings.data_dir
    environment = {"CHATTY_DATABASE_URL": as_url(database), "CHATTY_REGISTRATION": "open"}
    result = await chatty_admin(data_dir, "users", "lock", "--yes", "--json", ann.user, **environment)
    assert result.exit_code == 0, result.stderr
    async with open_chat(database, tmp_path) as chat:
        ann.person.http = chat.http
        assert outcome(await ann.person.log_in()) == "login_refused"
        assert outcome(await ann.person.ask("GET", "/v1/account")) == "device_revoked"
