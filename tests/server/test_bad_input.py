"""Bad input, from outside: each gets its documented error, nothing is half done, the connection goes on where that is safe."""

import base64
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chatty.crypto.signatures import public_key
from chatty.ids import DeviceId
from chatty.wire import frames
from chatty.wire.events import Action, Policy, RoomRole
from chatty.wire.frames import Encoding
from tests.olm_devices import OlmDevice
from tests.people import new_device_id
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import WireSocket, ciphertext, open_live_socket, open_raw_socket
from tests.server.wire_people import HttpRefused, WireDevice, sign_in

CORPUS = Path(__file__).parent.parent / "corpus"
_TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"
# Numbers and outcomes of requests, and what background jobs write whenever they get to it.
_BOOKKEEPING = {
    *("requests", "device_send", "alembic_version", "audit_seals", "audit_heads"),
    *("leases", "jobs", "job_runs", "statistics", "size_samples"),
}


async def stored(chat: RunningApp) -> Counter[str]:
    """How many rows each table holds, but for the bookkeeping of requests and jobs."""
    tables = sorted(row[0] for row in await chat.rows(_TABLES) if row[0] not in _BOOKKEEPING)
    counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table}" for table in tables)
    return Counter(dict(await chat.rows(counts)))


async def code_of(device: WireDevice, path: str, body: Any, *, n: int | None = None) -> str:
    """Of the refusal."""
    with pytest.raises(HttpRefused) as refused:
        await device.post(path, body, n=n)
    return refused.value.code


# What is no request -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_each_frame_of_the_corpus_is_refused_and_the_connection_goes_on(
    chat: RunningApp, encoding: Encoding
) -> None:
    ann = await chat.sign_up("ann")
    before = await stored(chat)
    async with open_live_socket(ann, encoding=encoding) as socket:
        for path in sorted((CORPUS / encoding).iterdir()):
            await socket.write_raw(path.read_bytes())
            error = await socket.event(frames.Error)
            assert (error.id, error.code, error.is_retryable) == (0, "bad_request", False), path.name
        await socket.settle()
    assert await stored(chat) == before


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_a_frame_of_the_other_kind_is_refused_and_the_connection_goes_on(
    chat: RunningApp, encoding: Encoding
) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann, encoding=encoding) as socket:
        await socket.write_raw(frames.encode(frames.Ping(id=1), encoding="json"), is_text=encoding == "msgpack")
        assert (await socket.event(frames.Error)).code == "bad_request"
        await socket.write_raw(b"", is_text=False)
        assert (await socket.event(frames.Error)).code == "bad_request"
        await socket.settle()


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_before_hello_whatever_is_no_hello_ends_the_connection(chat: RunningApp, encoding: Encoding) -> None:
    for path in sorted((CORPUS / encoding).iterdir())[::6]:
        async with open_raw_socket(chat.origin, encoding=encoding) as socket:
            await socket.write_raw(path.read_bytes())
            code, error = (await socket.closed()).code, await socket.event(frames.Error)
            assert (code, error.code) in {(4411, "bad_request"), (4400, "hello_expected")}, path.name


async def test_text_that_is_no_utf8_ends_the_connection_alone(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    async with open_live_socket(bob) as bobs:
        async with open_live_socket(ann, encoding="json") as anns:
            await anns.inner._stream.send_all(b"\x81\x82\x00\x00\x00\x00\xff\xfe")
            assert (await anns.closed()).code == 1007
        await bobs.settle()


async def test_a_body_that_is_no_request_is_refused(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    wrong = {
        "empty": b"",
        "truncated": b"{",
        "list": b"[]",
        "null": b"null",
        "unknown field": b'{"device_keys": {}, "extra": 1}',
        "NUL": b'{"device_keys": {"@ann:localhost": ["\\u0000"]}}',
        "not UTF-8": b'{"device_keys": {"\xff": []}}',
        "nested": b'{"device_keys":' + b"[" * 50_000,
    }
    for name, body in wrong.items():
        assert await code_of(ann, "/v1/keys/query", body) == "bad_request", name
    assert await code_of(ann, "/v1/keys/query", b'{"device_keys": {}}' + b" " * 1_048_576) == "too_large"
    await ann.post("/v1/keys/query", {"device_keys": {}})


async def test_a_body_may_be_as_large_as_the_limit(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, body_bytes_max=2_048) as chat:
        ann = await chat.sign_up("ann")
        body = b'{"device_keys": {}}'
        await ann.post("/v1/keys/query", body + b" " * (2_048 - len(body)))
        assert await code_of(ann, "/v1/keys/query", body + b" " * (2_049 - len(body))) == "too_large"


async def test_a_durable_write_needs_its_numbers(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    body = msgspec.to_builtins(ann.creation(Policy())["body"])
    for n, low in (("0", "0"), ("1", "2"), ("x", "1"), ("1", ""), ("01", "1"), ("9007199254740992", "1")):
        headers = {"Idempotency-Key": n, "Chatty-Low": low}
        answer = await ann.ask("POST", "/v1/rooms", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), (n, low)


# Tokens -------------------------------------------------------------------------------------------------------------


def forged(token: str, **claims: Any) -> str:
    """The same claims but for these, under the same key id, signed by somebody else."""
    header = jwt.get_unverified_header(token)
    found = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode({**found, **claims}, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=header)


async def test_a_forged_token_opens_nothing(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    unsigned = ".".join([*ann.access_token.split(".")[:2], ""])
    swapped = ".".join([*ann.access_token.split(".")[:2], eve.access_token.split(".")[2]])
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    for token in (forged(eve.access_token, sub=ann.user), unsigned, swapped, f"{none}.{unsigned.split('.')[1]}.", "x"):
        answer = await ann.person.prover.ask(chat.http, "GET", "/v1/account", access_token=token)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        async with open_raw_socket(chat.origin, device=ann) as socket:
            await socket.write(socket.hello(access_token=token))
            assert (await socket.closed()).code == 4401
            assert (await socket.event(frames.Error)).code == "unauthenticated"


async def test_an_expired_token_says_so_and_a_refresh_mends_it(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, access_token_lifetime_s=4) as chat:
        ann = await chat.sign_up("ann")
        with trio.fail_after(15):
            while (answer := await ann.answer("GET", "/v1/account")).status_code == 200:
                pass
        assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
        async with open_raw_socket(chat.origin, device=ann) as socket:
            await socket.write(socket.hello())
            assert (await socket.closed()).code == 4402
        ann.tokens = (await ann.person.refresh(ann.tokens["refresh_token"])).json()
        assert (await ann.answer("GET", "/v1/account")).status_code == 200


# Devices and keys ---------------------------------------------------------------------------------------------------


async def test_a_device_id_belongs_to_one_device_whoever_asks(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    before = await stored(chat)
    for person in (ann.person, bob.person):
        answer = await person.log_in(new_device={"device": ann.device})
        assert (answer.status_code, answer.json()["code"]) == (409, "device_id_taken")
    assert await stored(chat) == before
    await ann.answer("DELETE", f"/v1/devices/{ann.device}")
    answer = await ann.person.log_in(new_device={"device": ann.device})
    assert answer.json()["code"] == "device_id_taken", "also when it is revoked"


async def test_a_one_time_key_keeps_its_first_value(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    first, second = ann.olm.one_time_keys(2).items()
    await ann.post("/v1/keys/upload", {"one_time_keys": dict([first])})
    again = await ann.post("/v1/keys/upload", {"one_time_keys": dict([first])})
    assert again["one_time_key_counts"] == {"signed_curve25519": 1}, "the same value again changes nothing"
    other = {first[0]: second[1]}
    before = await stored(chat)
    extra = ann.olm.one_time_keys(1)
    assert await code_of(ann, "/v1/keys/upload", {"one_time_keys": {**extra, **other}}) == "key_conflict"
    assert await stored(chat) == before, "the good key beside the bad one was not kept either"


async def test_a_device_keeps_its_first_keys(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    before = (await ann.post("/v1/keys/query", {"device_keys": {ann.user: []}}))["device_keys"]
    other = OlmDevice(user=ann.user, device=ann.device)
    assert await code_of(ann, "/v1/keys/upload", {"device_keys": other.device_keys()}) == "key_conflict"
    assert (await ann.post("/v1/keys/query", {"device_keys": {ann.user: []}}))["device_keys"] == before


async def test_a_key_of_low_order_is_refused_and_the_device_stays_outside_the_set(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    tokens = (await ann.person.log_in(new_device={"device": new_device_id()})).json()
    phone = OlmDevice(user=ann.user, device=DeviceId(tokens["device"]))
    before = await stored(chat)
    for key in (bytes(32), b"\x01" + bytes(31), (2**255 - 19).to_bytes(32, "little")):
        low = base64.b64encode(key).rstrip(b"=").decode()
        upload = {"one_time_keys": {**ann.olm.one_time_keys(1), "signed_curve25519:x": ann.olm.signed({"key": low})}}
        assert await code_of(ann, "/v1/keys/upload", upload) == "bad_key"
        keys = {f"curve25519:{phone.device}": low, f"ed25519:{phone.device}": phone.ed25519}
        device_keys = {"device_keys": phone.device_keys(keys=keys)}
        token = tokens["access_token"]
        answer = await ann.person.prover.ask(chat.http, "POST", "/v1/keys/upload", access_token=token, json=device_keys)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_key")
    assert await stored(chat) == before
    listed = await ann.post("/v1/keys/query", {"device_keys": {ann.user: []}})
    assert list(listed["device_keys"][ann.user]) == [ann.device]


async def test_a_key_signed_by_somebody_else_is_refused(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    before = await stored(chat)
    assert await code_of(ann, "/v1/keys/upload", {"one_time_keys": eve.olm.one_time_keys(1)}) == "bad_signature"
    altered = {name: {**key, "fallback": True} for name, key in ann.olm.one_time_keys(1).items()}
    assert await code_of(ann, "/v1/keys/upload", {"fallback_keys": altered}) == "bad_signature"
    assert await stored(chat) == before


# Rooms --------------------------------------------------------------------------------------------------------------


async def test_a_room_with_a_bad_signature_is_not_made(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    before = await stored(chat)
    for signature in ("A" * 86, "A" * 85 + "B", "A" * 85, "+" * 86, "="):
        for where in ("create", "member"):
            creation = ann.creation(Policy())
            body = creation["body"]
            (body["create"] if where == "create" else body["members"][0])["signature"] = signature
            assert await code_of(ann, "/v1/rooms", body, n=creation["n"]) in ("bad_signature", "bad_request")
    assert await stored(chat) == before


async def test_a_room_in_anothers_name_is_not_made(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    before = await stored(chat)
    creation = ann.creation(Policy())
    assert await code_of(eve, "/v1/rooms", creation["body"], n=creation["n"]) == "bad_signature"
    assert await stored(chat) == before


async def test_a_room_whose_creator_claims_another_identity_is_not_made(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    before = await stored(chat)
    ann.identity_key = public_key(secrets.token_bytes(32))
    creation = ann.creation(Policy())
    assert await code_of(ann, "/v1/rooms", creation["body"], n=creation["n"]) == "bad_signature"
    assert await stored(chat) == before


async def test_a_change_that_is_not_what_was_signed_is_refused(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room, other = await ann.create_room(bob, cid), await ann.create_room()
    position, before = await ann.position(room.id), await stored(chat)
    changes: dict[str, Any] = {
        "target": cid.user,
        "action": "kick",
        "role": "member",
        "last_seq": 1,
        "room": other.id,
        "server": "elsewhere.example",
        "n": 200,
        "target_identity": cid.identity_key,
    }
    for field, value in changes.items():
        body = ann.signed(ann.change(room.id, Action.ROLE, bob, position, role=RoomRole.ADMIN))
        body["signed"][field] = value
        code = await code_of(ann, f"/v1/rooms/{room.id}/members", body, n=body["signed"]["n"])
        assert code in ("bad_signature", "bad_request"), field
    assert await stored(chat) == before


async def test_a_change_signed_by_another_device_than_sends_it_is_refused(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    phone = await sign_in(ann)
    room = await ann.create_room(bob)
    before = await stored(chat)
    kick = ann.change(room.id, Action.KICK, bob, await ann.position(room.id))
    for thief in (phone, bob):
        assert await code_of(thief, f"/v1/rooms/{room.id}/members", ann.signed(kick), n=kick.n) == "bad_signature"
    assert await stored(chat) == before


async def test_a_change_by_one_without_the_right_is_refused(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    before = await stored(chat)
    for action in (Action.KICK, Action.BAN, Action.UNBAN, Action.ADD):
        kick = bob.change(room.id, action, cid, await bob.position(room.id))
        assert await code_of(bob, f"/v1/rooms/{room.id}/members", bob.signed(kick), n=kick.n) == "forbidden"
    assert await stored(chat) == before


async def test_an_invitation_with_a_forged_signature_lets_nobody_in_and_tells_nothing(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    room = await ann.create_room()
    before = await stored(chat)
    invitation = await room.invitation(ann, eve)
    forged_ = msgspec.structs.replace(invitation, signature=eve.sign(invitation.signed))
    join = eve.change(room.id, Action.JOIN, eve, await ann.position(room.id), invitation=forged_)
    assert await code_of(eve, f"/v1/rooms/{room.id}/members", eve.signed(join), n=join.n) == "not_found"
    assert await stored(chat) == before


async def test_a_position_that_never_was_is_refused(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    seq, head = await ann.position(room.id)
    before = await stored(chat)
    for position in ((seq, bytes(32)), (type(seq)(seq + 1), head), (type(seq)(seq - 1), head)):
        kick = ann.change(room.id, Action.KICK, bob, position)
        assert await code_of(ann, f"/v1/rooms/{room.id}/members", ann.signed(kick), n=kick.n) == "bad_request"
    assert await stored(chat) == before


# What must hold in between ------------------------------------------------------------------------------------------


async def test_bad_requests_among_good_ones_harm_only_themselves(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        good = [anns.draft(room.id, ciphertext(), epoch=room.epoch) for _ in range(10)]
        bad = [
            anns.draft(room.id, b"plain text", epoch=room.epoch),
            anns.draft(room.id, ciphertext(), epoch=room.epoch - 1),
            anns.draft(room.id, ciphertext(), epoch=room.epoch, n=good[0].n),
            anns.draft(room.id, ciphertext(), epoch=room.epoch, n=ann.low + 1_000),
        ]
        await anns.write(good[0], *bad, *good[1:])
        codes = [await _outcome(anns, request.id) for request in bad]
        assert codes == ["not_encrypted", "device_set_stale", "message_id_conflict", "send_window_full"]
        assert {await _outcome(anns, request.id) for request in good} == {"ack"}
        assert [event.body for event in await bobs.messages(10)] == [request.body for request in good]


async def _outcome(socket: WireSocket, request_id: int) -> str:
    answer = await socket.answer(request_id)
    return answer.code if isinstance(answer, frames.Error) else "ack"
