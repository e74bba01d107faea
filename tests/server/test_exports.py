"""The export over HTTP: all that is stored about its user, nothing of others, whole or visibly cut off, however large."""

import base64
import json
import tracemalloc
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from chatty.errors import Overloaded
from chatty.services.exports import ExportSteps, running_count_max
from chatty.services.limits import unlimited
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.conftest import SERVER_NAME, RunningServer
from tests.server.wire_client import SESSION_ID, ciphertext, open_live_socket
from tests.server.wire_people import WireDevice, WireRoom, sign_in

PATH = "/v1/account/export"
Lines = list[dict[str, Any]]


def lines_of(answer: httpx.Response) -> Lines:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1] == {"type": "end", "lines_count": len(lines)}
    return lines


async def export(device: WireDevice) -> Lines:
    return lines_of(await device.answer("POST", PATH, {}))


def of_type(lines: Lines, kind: str) -> Lines:
    return [line for line in lines if line["type"] == kind]


@pytest.fixture
async def scene(chat: RunningApp) -> "Scene":
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    return Scene(chat, ann, bob, cid)


class Scene:
    """ann has done a little of everything; bob and cid are the others whose data must not get into her export."""

    def __init__(self, chat: RunningApp, ann: WireDevice, bob: WireDevice, cid: WireDevice) -> None:
        self.chat, self.ann, self.bob, self.cid = chat, ann, bob, cid
        self.bodies: list[bytes] = []
        self.others_body = ciphertext()

    async def live(self) -> WireRoom:
        room = await self.ann.create_room(self.bob)
        await room.invite(self.ann, self.cid)
        self.phone = await sign_in(self.ann, one_time_keys_count=2, with_fallback=True)
        await self.ann.answer("DELETE", f"/v1/devices/{(await sign_in(self.ann)).device}")
        async with open_live_socket(self.ann) as own, open_live_socket(self.bob) as other:
            for _ in range(3):
                self.bodies.append(ciphertext())
                await own.send(room.id, self.bodies[-1], epoch=(await self.epoch(room)))
            await other.send(room.id, self.others_body, epoch=(await self.epoch(room)))
        await self.ann.send_to_devices(self.bob, text="AwBB")
        await self.bob.send_to_devices(self.phone, text="AwCC")
        await self.cid.send_to_devices(self.bob, text="AwDD")
        await self.ann.answer("PUT", f"/v1/blocks/{self.cid.user}")
        left = await self.bob.create_room(self.ann)
        await left.kick(self.bob, self.ann)
        return room

    async def epoch(self, room: WireRoom) -> Any:
        return (await self.ann.get(f"/v1/rooms/{room.id}/members"))["epoch"]


async def test_everything_about_the_user_is_there(scene: Scene) -> None:
    await scene.live()
    lines = await export(scene.ann)
    ann, phone = scene.ann, scene.phone
    assert lines[0] == {
        "type": "export",
        "format": 1,
        "server": "localhost",
        "user": ann.user,
        "time": lines[0]["time"],
    }
    assert of_type(lines, "quotas")[0]["devices"] == 20
    [account] = of_type(lines, "account")
    assert (account["user"], account["identity_key"], account["wrapped_recovery"]) == (
        ann.user,
        ann.identity_key,
        "AQID",
    )
    devices = {one["device"]: one for one in of_type(lines, "device")}
    assert Counter(one["is_live"] for one in devices.values()) == {True: 2, False: 1}
    assert devices[ann.device]["keys"]["keys"][f"ed25519:{ann.device}"] == ann.olm.ed25519
    assert devices[ann.device]["highest_n"] == ann.last_n
    assert {one["device"] for one in of_type(lines, "log_in_session")} == devices.keys()
    assert len(of_type(lines, "one_time_key")) == 2
    assert [one["device"] for one in of_type(lines, "fallback_key")] == [phone.device]
    assert (ann.device, ann.last_n) in {(one["device"], one["n"]) for one in of_type(lines, "request")}
    assert [one["user"] for one in of_type(lines, "block")] == [scene.cid.user]
    assert {one["kind"] for one in of_type(lines, "user_event")} >= {
        "room_joined",
        "room_left",
        "invitation",
        "devices",
    }


async def test_second_factors_and_invitations_are_there_without_what_opens_something(scene: Scene) -> None:
    for device in (scene.ann, scene.bob):
        await device.answer("POST", "/v1/totp", {})
        await scene.chat.execute(_FACTORS, device.user)
    lines = await export(scene.ann)
    assert [one["is_confirmed"] for one in of_type(lines, "totp")] == [False]
    assert [one["left_count"] for one in of_type(lines, "recovery_codes")] == [1]
    [passkey] = of_type(lines, "passkey")
    assert (passkey["passkey"], passkey["name"], passkey["wrapped_recovery"]) == ("cHJveA", "my key", "dw==")
    assert [(one["role"], one["uses_left"]) for one in of_type(lines, "registration_invitation")] == [("user", 3)]
    [(secret,)] = await scene.chat.rows("SELECT secret_sealed FROM totp_secrets JOIN users USING (user_number) LIMIT 1")
    text = json.dumps(lines)
    assert base64.b64encode(secret).decode() not in text
    assert base64.b64encode(b"c" * 32).decode() not in text


_FACTORS = """WITH someone AS (SELECT user_number, user_id FROM users WHERE user_id = %s),
code AS (INSERT INTO recovery_codes SELECT user_number, convert_to(repeat('c', 32), 'UTF8') FROM someone),
invitation AS (INSERT INTO registration_tokens (token_hash, role, uses_left, expires_at, inviter_number)
 SELECT sha256(convert_to(user_id, 'UTF8')), 'user', 3, now() + interval '1 day', user_number FROM someone)
INSERT INTO passkeys (user_number, credential_id, public_key, sign_count, transports, name, wrapped_recovery)
SELECT user_number, 'cHJveA', 'p', 0, '{}', 'my key', 'w' FROM someone"""


async def test_the_rooms_and_what_was_said_are_there(scene: Scene) -> None:
    room = await scene.live()
    lines = await export(scene.ann)
    rooms = {one["room"]: one for one in of_type(lines, "room")}
    assert Counter(one["standing"] for one in rooms.values()) == {"joined": 1, "left": 1}
    assert rooms[room.id]["role"] == "owner"
    intervals = of_type(lines, "membership")
    assert {(one["room"] == room.id, one["to_seq"] is None) for one in intervals} == {(True, True), (False, False)}
    events = of_type(lines, "event")
    assert Counter(one["kind"] for one in events) == {"create": 1, "member": 2, "message": 3}
    messages = [one for one in events if one["kind"] == "message"]
    assert [base64.b64decode(one["ciphertext"]) for one in messages] == scene.bodies
    assert {one["session_id"] for one in messages} == {SESSION_ID}
    [created] = [one for one in events if one["kind"] == "create"]
    assert created["content"]["creator"] == scene.ann.user


async def test_mailboxes_show_what_waits_for_and_from_the_user(scene: Scene) -> None:
    await scene.live()
    lines = await export(scene.ann)
    [waiting] = of_type(lines, "mailbox")
    [sent] = of_type(lines, "mailbox_sent")
    assert (waiting["device"], waiting["sender"]) == (scene.phone.device, scene.bob.user)
    assert (sent["sender_device"], sent["recipient"], sent["device"]) == (
        scene.ann.device,
        scene.bob.user,
        scene.bob.device,
    )
    assert [next(iter(one["content"]["ciphertext"].values()))["body"] for one in (waiting, sent)] == ["AwCC", "AwBB"]


async def test_nothing_of_others_and_no_secret_of_the_server_is_there(scene: Scene) -> None:
    await scene.live()
    text = (await scene.ann.answer("POST", PATH, {})).text
    assert base64.b64encode(scene.others_body).decode() not in text
    assert "AwDD" not in text
    assert scene.cid.olm.ed25519 not in text
    [(sealed,)] = await scene.chat.rows("SELECT login_key_sealed FROM users WHERE user_id = %s", scene.ann.user)
    assert base64.b64encode(bytes(sealed)).decode() not in text
    assert scene.phone.tokens["refresh_token"] not in text


async def test_audit_rows_are_the_own_ones_and_those_about_the_user_without_who_did_it(scene: Scene) -> None:
    await scene.live()
    rows = of_type(await export(scene.ann), "audit")
    by_action = {one["action"]: one for one in rows}
    assert by_action.keys() >= {
        "account.registered",
        "session.started",
        "device.revoked",
        "room.kick",
        "account.exported",
    }
    kicked = by_action["room.kick"]
    assert (kicked["is_own"], kicked["device"], kicked["address"]) == (False, None, None)
    assert scene.bob.user not in json.dumps(rows)
    own = by_action["device.revoked"]
    assert (own["is_own"], own["device"], own["address"]) == (True, scene.ann.device, "127.0.0.1")
    shown = of_type(await export(scene.bob), "audit")
    assert "device.revoked" not in {one["action"] for one in shown}
    [kicking] = [one for one in shown if one["action"] == "room.kick"]
    assert (kicking["is_own"], kicking["device"]) == (True, scene.bob.device)


async def test_it_needs_a_step_up_and_is_limited_by_name(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, limit_exports_account="1 per day, burst 2") as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        await chat.execute("UPDATE refresh_families SET stepped_up_at = now() - interval '11 minutes'")
        assert (await ann.answer("POST", PATH, {})).json()["code"] == "step_up_required"
        assert (await ann.person.step_up()).status_code == 200
        for _ in range(2):
            await export(ann)
        refused = await ann.answer("POST", PATH, {})
        assert (refused.status_code, refused.json()["limiter"]) == (429, "exports_account")
        assert (await bob.person.step_up()).status_code == 200
        await export(bob)
        assert await chat.rows("SELECT count(*) FROM audit WHERE action = 'account.exported'") == [(3,)]


# Large ones, slow ones ----------------------------------------------------------------------------------------------

_MANY = """INSERT INTO timeline (room_number, seq, time, kind, sender_number, device_number, n, algorithm, session_id, epoch,
silent, expiry, target, signature, body_hash, head)
SELECT m.room_number, 100 + i, 1, 'message', m.user_number, NULL, i, 'm.megolm.v1.aes-sha2', '', 2, false, 0, '', '', '', ''
FROM members m, generate_series(1, %s) AS i"""
_BODIES = """INSERT INTO bodies (room_number, seq, body)
SELECT m.room_number, 100 + i, decode(repeat('ab', 60000), 'hex') FROM members m, generate_series(1, %s) AS i"""
many_count = 700


async def with_many_messages(chat: RunningApp) -> WireDevice:
    """Some 42 MB of ciphertext."""
    ann = await chat.sign_up("ann")
    await ann.create_room()
    await chat.execute(_MANY, many_count)
    await chat.execute(_BODIES, many_count)
    return ann


async def test_a_large_export_is_sent_in_pieces_and_needs_little_memory(chat: RunningApp) -> None:
    ann = await with_many_messages(chat)
    size_bytes, messages_count, last = 0, 0, b""
    tracemalloc.start()
    headers = {"Content-Type": "application/json", "Authorization": f"DPoP {ann.access_token}"}
    headers["DPoP"] = ann.person.prover.proof("POST", PATH, access_token=ann.access_token)
    async with chat.http.stream("POST", PATH, content=b"{}", headers=headers) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            size_bytes += len(line)
            messages_count += '"kind":"message"' in line
            last = line.encode()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (messages_count, json.loads(last)["type"]) == (many_count, "end")
    assert size_bytes > 50_000_000
    assert peak_bytes < 25_000_000


_EXPORTING = """SELECT 1 FROM pg_stat_activity
WHERE query LIKE '%%export%%' AND state <> 'idle' AND pid <> pg_backend_pid() AND datname = current_database()"""


async def open_export(device: WireDevice) -> trio.SocketStream:
    """Asked for over a bare connection, of which nothing is read yet."""
    host, _, port = device.origin.removeprefix("http://").partition(":")
    proof = device.person.prover.proof("POST", PATH, access_token=device.access_token)
    stream = await trio.open_tcp_stream(host, int(port))
    head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    await stream.send_all(f"{head}Authorization: DPoP {device.access_token}\r\nDPoP: {proof}\r\n\r\n{{}}".encode())
    return stream


async def test_who_hangs_up_leaves_no_connection_of_the_pool_behind(chat: RunningApp) -> None:
    ann = await with_many_messages(chat)
    for _ in range(2 * running_count_max):
        stream = await open_export(ann)
        assert (await stream.receive_some(65_536)).startswith(b"HTTP/1.1 200")
        with trio.fail_after(10):
            while not await chat.rows(_EXPORTING):
                await trio.lowlevel.checkpoint()
            await stream.aclose()
            while await chat.rows(_EXPORTING):
                await trio.lowlevel.checkpoint()
    assert len(of_type(await export(ann), "event")) == many_count + 2


def steps_of(running: RunningServer, **changes: Any) -> ExportSteps:
    usual: dict[str, Any] = {
        "unit_of_work": running.store.units,
        "limits": unlimited(),
        "quotas": running.steps.quotas,
        "server_name": SERVER_NAME,
        "clock_s": running.clock,
    }
    return ExportSteps(**(usual | changes))


async def test_one_snapshot_whatever_happens_meanwhile(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    kinds: list[str] = []
    async with aclosing(steps_of(running)._lines(await running.caller(ann))) as lines:
        async for line in lines:
            kinds.append(json.loads(line)["type"])
            if kinds[-1] == "account":
                await ann.log_in()
    assert kinds.count("device") == 1


async def test_more_than_a_few_at_once_are_refused(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    caller, steps = await running.caller(ann), steps_of(running)
    opened = [await steps.begin(caller) for _ in range(running_count_max)]
    for chunks in opened:
        await anext(chunks)
    with pytest.raises(Overloaded) as refused:
        await steps.begin(caller)
    assert refused.value.limiter == "exports"
    for chunks in opened:
        assert [chunk async for chunk in chunks] == []
    await steps.begin(caller)


async def test_an_export_that_takes_too_long_is_cut_off(running: RunningServer) -> None:
    ann = running.person()
    await ann.register()
    steps = steps_of(running, lifetime_s=5.0)
    chunks = await steps.begin(await running.caller(ann))
    running.clock.offset_s = 0.0
    lines = steps._lines(await running.caller(ann))
    async with aclosing(lines):
        assert json.loads(await anext(lines))["type"] == "export"
        running.clock.offset_s = 6.0
        with pytest.raises(Overloaded):
            async for _ in lines:
                pass
    assert b'"type":"end"' in b"".join([chunk async for chunk in chunks])
