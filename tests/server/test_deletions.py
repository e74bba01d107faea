"""Deleting an account over HTTP: what ends at once, what the job erases, what is left, and what the receipt says of it."""

import base64
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.crypto.events import verify_event
from chatty.errors import NameTaken
from chatty.services import deletions
from chatty.services.deletions import KEPT, CleanUpReceipts, receipt_lifetime_s
from chatty.store import deletions as store
from chatty.wire.canonical import encode_base64, encode_base64url
from chatty.wire.events import Action, Kind, Policy, RoomRole, TimelineEvent, action_of, decode_content
from chatty.wire.frames import Erased
from tests.people import Person
from tests.server.app_fixtures import RunningApp
from tests.server.commands import chatty_admin, chatty_admin_json
from tests.server.conftest import RunningServer, open_server
from tests.server.deleting import FACTORS, PATH, ask_to_delete, body_of, by_store, delete, receipt_of, until_erased
from tests.server.wire_client import Refused, WireSocket, ciphertext, open_live_socket
from tests.server.wire_people import ORIGIN, SERVER_NAME, HttpRefused, WireDevice, WireRoom, sign_in, sign_up

_AGE = "UPDATE refresh_families SET stepped_up_at = now() - interval '11 minutes'"
_NUMBER = "SELECT user_number FROM users WHERE user_id = %s"


@pytest.fixture
async def still(database: str, tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A server without its jobs: what is seen here was so when the request was answered."""
    async with open_server(database, tmp_path, server_name=SERVER_NAME) as running:
        yield running


async def said(socket: WireSocket, room: WireRoom, count: int) -> None:
    """Messages at the room's newest epoch."""
    epoch = (await socket.device.get(f"/v1/rooms/{room.id}/members"))["epoch"]
    for _ in range(count):
        await socket.send(room.id, ciphertext(), epoch=epoch)


async def say(device: WireDevice, room: WireRoom, count: int = 1) -> None:
    async with open_live_socket(device) as socket:
        await said(socket, room, count)


def code_of(answer: Any) -> str:
    return str(answer.json()["code"])


# At once ------------------------------------------------------------------------------------------------------------


async def test_sockets_of_all_devices_close_within_a_second(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    phone = await sign_in(ann)
    async with open_live_socket(ann) as one, open_live_socket(phone) as other:
        await delete(ann)
        with trio.fail_after(1):
            assert [(await socket.closed()).code for socket in (one, other)] == [4403, 4403]


async def test_nobody_can_use_the_account_any_more(still: RunningServer) -> None:
    ann = await sign_up(still.http, "ann")
    phone = await sign_in(ann)
    refresh_tokens = [one.tokens["refresh_token"] for one in (ann, phone)]
    await delete(phone)
    for device in (ann, phone):
        assert (await device.answer("GET", PATH)).status_code == 401
        assert (await device.answer("DELETE", PATH, await body_of(device, bytes(32)))).status_code == 401
    refused = [await ann.person.refresh(one) for one in refresh_tokens]
    assert [answer.status_code for answer in refused] == [401, 401]
    nobody = Person(http=still.http, name="nobody", server_name=SERVER_NAME, origin=ORIGIN)
    answers = [await person.log_in() for person in (ann.person, nobody)]
    without_ids = [{key: value for key, value in one.json().items() if key != "request_id"} for one in answers]
    assert without_ids[0] == without_ids[1]
    assert without_ids[0]["code"] == "login_refused"


async def test_its_secrets_are_gone_at_once(still: RunningServer) -> None:
    ann = await sign_up(still.http, "ann")
    await delete(ann)
    sql = (
        "SELECT login_key_sealed, wrapped_recovery, wrapped_identity, key_derivation, is_locked, is_deleted FROM users"
    )
    assert await still.rows(sql) == [(b"", b"", b"", {}, True, True)]
    assert await still.rows("SELECT bool_or(is_live), bool_or(in_set) FROM devices") == [(False, False)]
    assert await still.rows("SELECT bool_and(is_revoked) FROM refresh_families") == [(True,)]


async def test_who_is_deleted_is_as_good_as_nobody_to_the_others(still: RunningServer) -> None:
    ann, bob = await sign_up(still.http, "ann"), await sign_up(still.http, "bob", one_time_keys_count=1)
    room = await bob.create_room()
    invitation = await room.invitation(bob, ann)
    await delete(ann)
    refused: list[str] = []
    for what in (
        bob.post("/v1/rooms", **bob.creation(Policy(history="joined"), other=ann)),
        bob.post(f"/v1/rooms/{room.id}/invitations", invitation, n=invitation.signed.n),
    ):
        with pytest.raises(HttpRefused) as caught:
            await what
        refused.append(caught.value.code)
    assert refused == ["not_found", "not_found"]
    assert code_of(await bob.answer("PUT", f"/v1/blocks/{ann.user}")) == "not_found"
    answer = await bob.post("/v1/keys/query", {"device_keys": {ann.user: []}})
    assert answer["device_keys"].get(ann.user, {}) == {}
    claim = {"one_time_keys": {ann.user: {ann.device: "signed_curve25519"}}}
    assert (await bob.post("/v1/keys/claim", claim, n=bob.take_n()))["one_time_keys"] == {}
    assert await bob.send_to_devices(ann) == {"unknown": {ann.user: [ann.device]}}


@pytest.mark.parametrize("name", ["ann", "a-n-n"])
async def test_nobody_takes_the_name_or_one_alike(chat: RunningApp, name: str) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    await ann.create_room(bob)
    token = await delete(ann)
    person = Person(http=chat.http, name=name, server_name=SERVER_NAME, origin=ORIGIN)
    assert code_of(await person.register()) == "name_taken"
    await until_erased(chat.http, token)
    assert code_of(await person.register()) == "name_taken"


async def test_a_name_of_which_nothing_is_left_is_still_taken(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    await until_erased(chat.http, await delete(ann))
    assert await chat.rows("SELECT * FROM users") == []
    for name in ("ann", "a-nn"):
        person = Person(http=chat.http, name=name, server_name=SERVER_NAME, origin=ORIGIN)
        assert code_of(await person.register()) == "name_taken"
    await chat.sign_up("anna")


async def test_an_application_for_the_name_cannot_be_approved(still: RunningServer) -> None:
    ann = await sign_up(still.http, "ann")
    copied = """INSERT INTO registration_requests (user_id, name_skeleton, login_key_sealed, key_derivation, identity_key,
wrapped_recovery, wrapped_identity) SELECT %s, name_skeleton, '', key_derivation, identity_key, '', '' FROM users"""
    await still.execute(copied, "@a-n-n:localhost")
    await delete(ann)
    async with still.store.units.begin() as unit:
        [pending] = await unit.registrations.pending()
        assert not pending.is_name_free
        new = await unit.registrations.take_request(pending.request)
        assert new is not None
        with pytest.raises(NameTaken):
            await unit.registrations.add_user(new)


# Who may ------------------------------------------------------------------------------------------------------------


async def nothing_happened(running: RunningServer) -> bool:
    tables = ("deletions", "erasures", "erased_names")
    return [await running.rows(f"SELECT 1 FROM {table}") for table in tables] == [[], [], []]  # ours


@pytest.mark.parametrize(
    "how",
    [
        {"purpose": "step_up"},
        {"purpose": "login"},
        {"about": b""},
        {"about": bytes(32)},
        {"seed": b"x" * 32},
        {"dpop_thumbprint": "T" * 43},
    ],
)
async def test_another_signature_deletes_nothing(still: RunningServer, how: dict[str, Any]) -> None:
    ann = await sign_up(still.http, "ann")
    _, answer = await ask_to_delete(ann, **how)
    assert (answer.status_code, code_of(answer)) == (401, "login_refused")
    assert await nothing_happened(still)
    assert (await ann.answer("GET", PATH)).status_code == 200


async def test_a_nonce_lives_five_minutes_at_most(still: RunningServer) -> None:
    ann = await sign_up(still.http, "ann")
    raw = secrets.token_bytes(32)
    body = await body_of(ann, raw)
    still.clock.offset_s = 301
    assert code_of(await ann.answer("DELETE", PATH, body)) == "login_refused"
    assert await nothing_happened(still)
    assert (await ann.answer("DELETE", PATH, await body_of(ann, raw))).status_code == 202


async def test_it_needs_a_step_up_and_counts_attempts(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path, server_name=SERVER_NAME, login_free_count=3) as still:
        ann = await sign_up(still.http, "ann")
        await still.execute(_AGE)
        assert code_of((await ask_to_delete(ann))[1]) == "step_up_required"
        await still.execute("UPDATE refresh_families SET stepped_up_at = now()")
        codes = [code_of((await ask_to_delete(ann, seed=b"x" * 32))[1]) for _ in range(5)]
        assert codes[0] == "login_refused"
        assert codes[-1] == "rate_limited"
        assert await nothing_happened(still)


async def test_it_is_in_the_audit_log(still: RunningServer) -> None:
    ann = await sign_up(still.http, "ann")
    await delete(ann)
    rows = await still.rows("SELECT actor, device, object FROM audit WHERE action = 'account.deleted'")
    assert rows == [(ann.user, ann.device, ann.user)]


async def test_two_requests_at_once_are_one_deletion(still: RunningServer) -> None:
    ann = await sign_up(still.http, "ann")
    phone, statuses = await sign_in(ann), []

    async def ask(device: WireDevice) -> None:
        statuses.append((await ask_to_delete(device))[1].status_code)

    async with trio.open_nursery() as nursery:
        for device in (ann, phone):
            nursery.start_soon(ask, device)
    assert sorted(statuses) == [202, 401]
    assert await still.rows("SELECT count(*) FROM deletions") == [(1,)]


async def test_the_last_owner_stays_until_there_is_another(chat: RunningApp) -> None:
    root, ann = await chat.sign_up_as("owner"), await chat.sign_up("ann")
    assert code_of((await ask_to_delete(root))[1]) == "last_owner"
    refused = await chatty_admin(chat.settings.data_dir, "users", "delete", "--yes", root.user)
    assert (refused.exit_code, "last_owner" in refused.output) == (1, True)
    assert await chat.rows("SELECT 1 FROM deletions") == []
    await root.answer("PUT", f"/v1/admin/users/{ann.user}/role", {"role": "owner"})
    await until_erased(chat.http, await delete(root))
    assert code_of((await ask_to_delete(ann))[1]) == "last_owner"


async def test_the_operator_deletes_an_account(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    await bob.create_room(ann)
    with trio.fail_after(20):
        async with open_live_socket(ann) as socket:
            gone = await chatty_admin_json(chat.settings.data_dir, "users", "delete", "--yes", ann.user)
            assert (await socket.closed()).code == 4403
    assert gone["user"] == ann.user
    receipt = await until_erased(chat.http, gone["receipt"])
    assert all(one.is_done for one in receipt.stores)
    listed = await chatty_admin_json(chat.settings.data_dir, "users", "list")
    assert [one["user"] for one in listed["users"]] == [bob.user]
    for words in (("delete", "--yes"), ("unlock",), ("lock", "--yes"), ("end-sessions", "--yes")):
        refused = await chatty_admin(chat.settings.data_dir, "users", *words, ann.user)
        assert (refused.exit_code, "not_found" in refused.output) == (1, True), words
    assert await chat.rows("SELECT actor, object FROM audit WHERE action = 'account.deleted'") == [("", ann.user)]


async def test_nobody_is_deleted_unless_it_is_confirmed(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    assert (await chatty_admin(chat.settings.data_dir, "users", "delete", ann.user)).exit_code == 4
    assert await chat.rows("SELECT 1 FROM deletions") == []


# Rooms --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["in one piece", "in small pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in small pieces":
        monkeypatch.setattr(deletions, "stretch_seqs_max", 2)
        monkeypatch.setattr(store, "rows_a_piece_max", 1)


@pytest.mark.usefixtures("pieces")
async def test_messages_keep_their_place_and_leaf_and_others_go_on(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    for device, count in ((ann, 3), (bob, 2), (ann, 1)):
        await say(device, room, count)
    position_before = await bob.position(room.id)
    before = await bob.all_history(room.id)
    await until_erased(chat.http, await delete(ann))
    after = await bob.all_history(room.id)
    seq, head = await bob.position(room.id)
    removal = after[-1]
    assert isinstance(removal, TimelineEvent)
    erased_count = 0
    for old, new in zip(before, after, strict=False):
        assert isinstance(old, TimelineEvent)
        if old.kind is Kind.MESSAGE and old.sender == ann.user:
            assert isinstance(new, Erased)
            assert new.removal_seq == removal.seq
            erased_count += 1
        else:
            assert old == new
    assert erased_count == 4
    signed = await bob.get(f"/v1/rooms/{room.id}/checkpoint")
    assert (signed["seq"], signed["head"]) == (seq, encode_base64(head) + "=")
    assert seq > position_before[0]
    assert ann.user not in {one["user"] for one in (await bob.get(f"/v1/rooms/{room.id}/members"))["members"]}
    await say(bob, room)
    await say(cid, room)


async def test_the_removal_is_signed_by_the_published_key_and_changes_the_epoch(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(bob) as socket:
        await said(socket, room, 1)
        epoch_before = (await bob.get(f"/v1/rooms/{room.id}/members"))["epoch"]
        await until_erased(chat.http, await delete(ann))
        removal = (await bob.all_history(room.id))[-1]
        assert isinstance(removal, TimelineEvent)
        published = {one["kid"]: one["x"] for one in (await chat.http.get("/v1/jwks")).json()["keys"]}
        keys = {kid: encode_base64(base64.urlsafe_b64decode(x + "=")) for kid, x in published.items()}
        verify_event(
            removal, server=SERVER_NAME, device_key=lambda *_: None, server_key=lambda key_id, _: keys.get(key_id)
        )
        assert (action_of(decode_content(removal)), removal.target) == (Action.REMOVE, ann.user)
        assert (await bob.get(f"/v1/rooms/{room.id}/members"))["epoch"] == removal.seq
        with pytest.raises(Refused) as refused:
            await socket.send(room.id, ciphertext(), epoch=epoch_before)
        assert refused.value.code == "device_set_stale"


async def test_of_the_devices_that_signed_the_keys_are_given_and_no_others(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    phone, tablet = await sign_in(ann), await sign_in(ann)
    room = await ann.create_room()
    await room.invite(phone, bob)
    invitation = await room.invite(phone, bob)
    await room.change(bob, Action.JOIN, bob, invitation=invitation)
    await say(tablet, room)
    await until_erased(chat.http, await delete(tablet))
    answer = await bob.post("/v1/keys/query", {"device_keys": {ann.user: []}})
    assert answer["device_lists"][ann.user]["removed"] == {
        ann.device: ann.olm.ed25519,
        phone.device: phone.olm.ed25519,
    }
    assert answer["device_keys"].get(ann.user, {}) == {}


async def test_the_last_owner_leaves_a_room_that_goes_on_without(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    await until_erased(chat.http, await delete(ann))
    members = (await bob.get(f"/v1/rooms/{room.id}/members"))["members"]
    assert Counter(one["role"] for one in members) == {"member": 2}
    await say(bob, room)
    with pytest.raises(HttpRefused) as refused:
        await room.change(bob, Action.ROLE, cid, role=RoomRole.OWNER)
    assert refused.value.code == "forbidden"
    await room.leave(cid)


async def test_a_room_that_nobody_else_ever_was_in_goes_whole(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    own, shared = await ann.create_room(), await ann.create_room(bob)
    await own.invite(ann, bob)
    await say(ann, own, 2)
    await shared.leave(bob)
    await until_erased(chat.http, await delete(ann))
    assert await chat.rows("SELECT room_id FROM rooms") == [(shared.id,)]
    for table in ("timeline", "bodies", "members", "member_intervals", "erasures", "owed_devices"):
        assert (
            await chat.rows(f"SELECT 1 FROM {table} WHERE room_number NOT IN (SELECT room_number FROM rooms)") == []
        )  # ours


async def test_of_two_who_had_a_room_to_themselves_the_second_takes_it_along(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_direct(bob)
    await say(ann, room)
    await say(bob, room)
    await until_erased(chat.http, await delete(ann))
    assert len(await bob.all_history(room.id)) > 4
    await until_erased(chat.http, await delete(bob))
    for table in ("rooms", "timeline", "bodies", "members", "member_intervals", "erasures", "owed_devices"):
        assert await chat.rows(f"SELECT 1 FROM {table}") == []  # ours


async def test_two_who_go_at_once_from_one_room_are_both_erased(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await cid.create_room(ann, bob)
    await say(ann, room)
    await say(bob, room)
    tokens = [await delete(ann), await delete(bob)]
    for token in tokens:
        await until_erased(chat.http, token)
    entries = await cid.all_history(room.id)
    assert sum(isinstance(entry, Erased) for entry in entries) == 2
    events = [entry for entry in entries if isinstance(entry, TimelineEvent)]
    removed = [event.target for event in events if action_of(decode_content(event)) is Action.REMOVE]
    assert sorted(removed) == [ann.user, bob.user]
    await cid.position(room.id)


async def test_a_room_that_was_left_before_hears_of_it_too(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await bob.create_room(ann)
    await say(ann, room)
    await room.leave(ann)
    await until_erased(chat.http, await delete(ann))
    entries = await bob.all_history(room.id)
    assert [type(entry) for entry in entries].count(Erased) == 1
    last = entries[-1]
    assert isinstance(last, TimelineEvent)
    assert action_of(decode_content(last)) is Action.REMOVE


async def test_a_room_that_only_kept_the_user_out_hears_nothing(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await bob.create_room()
    await room.change(bob, Action.BAN, ann)
    before = await bob.all_history(room.id)
    await until_erased(chat.http, await delete(ann))
    assert await bob.all_history(room.id) == before


async def test_who_is_online_sees_the_member_go(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(bob) as socket:
        await delete(ann)
        while True:
            event = await socket.event(TimelineEvent)
            if event.kind is Kind.MEMBER and event.sender == "":
                break
    assert (event.room, event.target) == (room.id, ann.user)


# The rest -----------------------------------------------------------------------------------------------------------


async def everything(chat: RunningApp, ann: WireDevice, bob: WireDevice, cid: WireDevice) -> WireRoom:
    """ann has rows in every store."""
    room = await ann.create_room(bob)
    await room.invite(ann, cid)
    await room.invite(ann, cid)
    phone = await sign_in(ann, one_time_keys_count=3, with_fallback=True)
    await ann.answer("DELETE", f"/v1/devices/{(await sign_in(ann)).device}")
    for device in (ann, bob):
        await device.answer("POST", "/v1/totp", {})
        code, token = secrets.token_bytes(32), secrets.token_bytes(32)
        await chat.execute(FACTORS, device.user, code, token, "cHJveA", b"p", "my key", b"w")
    await say(ann, room, 3)
    await say(bob, room, 2)
    for _ in range(2):
        await ann.send_to_devices(bob, cid)
        await bob.send_to_devices(ann, phone, cid)
    await ann.answer("PUT", f"/v1/blocks/{cid.user}")
    await bob.answer("PUT", f"/v1/blocks/{ann.user}")
    await bob.answer("PUT", f"/v1/blocks/{cid.user}")
    return room


@pytest.mark.usefixtures("pieces")
async def test_the_receipt_tells_what_happened(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    await everything(chat, ann, bob, cid)
    [(number,)] = await chat.rows(_NUMBER, ann.user)
    before = await counted(chat, number)
    assert all(before.values()), before
    others_before = await others_rows(chat, number)
    token = await delete(ann)
    receipt = await until_erased(chat.http, token)
    assert await counted(chat, number) == dict.fromkeys(before, 0) | {"devices": 1, "timeline": before["timeline"]}
    assert await others_rows(chat, number) == others_before
    stores = by_store(receipt)
    assert all(one.is_done for one in receipt.stores)
    assert (receipt.format, receipt.server) == (1, SERVER_NAME)
    assert receipt.finished is not None
    assert receipt.finished >= receipt.began
    erased = {store: one.erased_count for store, one in stores.items()}
    kept = {store: one.kept_count for store, one in stores.items() if one.kept_count}
    # Beginning the end took a device event, and gave back what was claimed or awaited meanwhile.
    for table in (
        "blocks",
        "mailbox",
        "one_time_keys",
        "fallback_keys",
        "refresh_families",
        "device_send",
        "members",
        "member_intervals",
        "totp_secrets",
        "recovery_codes",
        "passkeys",
        "registration_tokens",
    ):
        assert (table, erased[table]) == (table, before[table])
    assert erased["user_stream"] == before["user_stream"] + 1  # and the notice of the ended devices
    assert (erased["bodies"], erased["timeline"], erased["devices"], erased["users"]) == (
        3,
        0,
        before["devices"] - 1,
        0,
    )
    [(about,)] = await chat.rows(
        "SELECT count(*) FROM timeline t JOIN bodies b USING (room_number, seq) WHERE position(%s IN b.body) > 0",
        ann.user.encode(),
    )
    [(audited,)] = await chat.rows("SELECT count(*) FROM audit WHERE audit::text LIKE %s", f"%{ann.user}%")
    assert kept == {
        "timeline": about + 3,
        "bodies": about,
        "rooms": 1,
        "devices": 1,
        "users": 1,
        "audit": audited,
        "erased_names": 1,
        "deletions": 1,
    }
    assert {one.store for one in receipt.stores if one.kept} == KEPT.keys()


async def counted(chat: RunningApp, number: int) -> dict[str, int]:
    """Rows about the user, by table."""
    factors = ("totp_secrets", "recovery_codes", "passkeys")
    by_user = ("user_stream", "members", "member_intervals", "devices", *factors)
    by_device = ("one_time_keys", "fallback_keys", "requests", "device_send", "refresh_families")
    devices = "SELECT device_number FROM devices WHERE user_number = %(user)s"
    counts = {table: f"SELECT count(*) FROM {table} WHERE user_number = %(user)s" for table in by_user}  # ours
    counts |= {table: f"SELECT count(*) FROM {table} WHERE device_number IN ({devices})" for table in by_device}  # ours
    counts["registration_tokens"] = "SELECT count(*) FROM registration_tokens WHERE inviter_number = %(user)s"
    counts["blocks"] = "SELECT count(*) FROM blocks WHERE %(user)s IN (user_number, blocked_number)"
    counts["mailbox"] = (
        counts["device_send"].replace("device_send", "mailbox") + f" OR sender_device_number IN ({devices})"
    )
    counts["user_stream"] += ' OR content LIKE \'%%"sender":"@ann:%%\''
    counts["timeline"] = "SELECT count(*) FROM timeline WHERE sender_number = %(user)s AND kind <> 'message'"
    return {table: (await chat.rows(sql, user=number))[0][0] for table, sql in counts.items()}


async def others_rows(chat: RunningApp, number: int) -> list[Any]:
    """What is the others' alone."""
    sqls = {
        "SELECT * FROM users WHERE user_number <> %(user)s ORDER BY 1",
        "SELECT * FROM devices WHERE user_number <> %(user)s ORDER BY 1",
        "SELECT * FROM totp_secrets WHERE user_number <> %(user)s",
        "SELECT * FROM recovery_codes WHERE user_number <> %(user)s",
        "SELECT * FROM passkeys WHERE user_number <> %(user)s",
        "SELECT * FROM registration_tokens WHERE inviter_number IS DISTINCT FROM %(user)s",
        "SELECT * FROM blocks WHERE %(user)s NOT IN (user_number, blocked_number) ORDER BY 1, 2",
        """SELECT room_number, seq FROM bodies JOIN timeline USING (room_number, seq)
WHERE sender_number <> %(user)s ORDER BY 1, 2""",
        "SELECT user_number, seq FROM user_stream WHERE user_number <> %(user)s ORDER BY 1, 2",
        """SELECT mailbox_id FROM mailbox m WHERE NOT EXISTS (SELECT FROM devices d WHERE user_number = %(user)s
AND d.device_number IN (m.device_number, m.sender_device_number)) ORDER BY 1""",
    }
    return [await chat.rows(sql, user=number) for sql in sorted(sqls)]


async def test_an_account_without_rooms_leaves_a_hash_and_the_audit_log(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    receipt = await until_erased(chat.http, await delete(ann))
    stores = by_store(receipt)
    assert (stores["users"].erased_count, stores["devices"].erased_count) == (1, 1)
    kept = {store for store, one in stores.items() if one.kept_count}
    assert kept == {"audit", "erased_names", "deletions"}
    assert await chat.rows("SELECT 1 FROM users UNION ALL SELECT 1 FROM devices") == []


async def test_an_invitation_goes_and_the_stream_it_stood_in_goes_on(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room, others = await ann.create_room(), await bob.create_room()
    await room.invite(ann, cid)
    await others.invite(bob, cid)
    before = (await cid.get("/v1/stream"))["events"]
    await until_erased(chat.http, await delete(ann))
    after = (await cid.get("/v1/stream"))["events"]
    assert [one["seq"] for one in after] == [one["seq"] for one in before]
    differing = [
        (old["kind"], new["kind"], new["content"]) for old, new in zip(before, after, strict=True) if old != new
    ]
    assert differing == [("invitation", "erased", {})]


# Receipts -----------------------------------------------------------------------------------------------------------


async def test_the_answer_says_what_is_still_to_do(still: RunningServer) -> None:
    ann = await sign_up(still.http, "ann")
    await ann.create_room()
    _, answer = await ask_to_delete(ann)
    body = answer.json()
    assert (body["finished"], body["server"]) == (None, SERVER_NAME)
    assert {one["is_done"] for one in body["stores"]} == {False}
    assert {"users", "timeline", "audit"} <= {one["store"] for one in body["stores"]}


async def test_a_receipt_is_for_who_has_its_token(still: RunningServer) -> None:
    ann, bob = await sign_up(still.http, "ann"), await sign_up(still.http, "bob")
    tokens = [await delete(ann), await delete(bob)]
    receipts = [await receipt_of(still.http, token) for token in tokens]
    assert receipts[0] != receipts[1]
    for token, status in ((encode_base64url(bytes(32)), 404), ("short", 400), (tokens[0][:-1] + "!", 400)):
        assert (await still.http.get(f"/v1/receipts/{token}")).status_code == status


async def test_a_receipt_names_nobody(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    await ann.create_room(bob)
    token = await delete(ann)
    await until_erased(chat.http, token)
    text = (await chat.http.get(f"/v1/receipts/{token}")).text
    assert not [secret for secret in (ann.user, ann.device, ann.identity_key, bob.user) if secret in text]


async def test_after_thirty_days_a_finished_receipt_is_forgotten(still: RunningServer) -> None:
    ann, bob, cid = [await sign_up(still.http, name) for name in ("ann", "bob", "cid")]
    tokens = [await delete(one) for one in (ann, bob, cid)]
    ages = "UPDATE deletions SET began_at = now() - interval '99 days', finished_at = now() - make_interval(secs => %s)"
    for user, age_s in ((ann, receipt_lifetime_s + 1), (bob, receipt_lifetime_s - 100)):
        await still.execute(f"{ages} WHERE user_number = ({_NUMBER})", age_s, user.user)
    await still.execute(
        f"UPDATE deletions SET began_at = now() - interval '99 days' WHERE user_number = ({_NUMBER})", cid.user
    )
    assert not await CleanUpReceipts(units=still.store.units).step()
    statuses = [(await still.http.get(f"/v1/receipts/{token}")).status_code for token in tokens]
    assert statuses == [404, 200, 200]
