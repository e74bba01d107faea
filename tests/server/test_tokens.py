"""Refresh tokens and DPoP at a running server: lost answers, late copies, thieves, and who is told of them."""

import secrets
import time
from typing import Any

import httpx
import pytest
import trio

from chatty.crypto.dpop import DpopKey
from chatty.wire import frames
from chatty.wire.frames import UserEvent
from tests.proofs import Prover
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import open_live_socket, open_raw_socket
from tests.server.wire_people import ORIGIN, WireDevice, sign_in

_LATER = "UPDATE refresh_families SET retired_ms = ARRAY(SELECT unnest(retired_ms) - 61000)"


def code(answer: httpx.Response) -> str:
    return "ok" if answer.is_success else str(answer.json()["code"])


async def refresh(device: WireDevice, token: str, *, prover: Prover | None = None) -> httpx.Response:
    """With a key of its own for a prover of one's own."""
    prover = prover or device.person.prover
    return await prover.ask(device.http, "POST", "/v1/token", json={"refresh_token": token})


async def rotated(device: WireDevice) -> str:
    """The next refresh token, taken."""
    device.tokens = (await refresh(device, device.tokens["refresh_token"])).json()
    return str(device.tokens["refresh_token"])


async def notices(device: WireDevice) -> list[dict[str, Any]]:
    stream = (await device.get("/v1/stream"))["events"]
    return [event["content"] for event in stream if event["kind"] == "security"]


async def actions(chat: RunningApp) -> list[str]:
    rows = await chat.rows("SELECT action FROM audit WHERE action LIKE 'session.%%' ORDER BY audit_id")
    return [action for (action,) in rows if action != "session.started"]


# Lost and late answers ----------------------------------------------------------------------------------------------


async def test_a_lost_answer_is_given_again(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    first = ann.tokens["refresh_token"]
    answers = [(await refresh(ann, first)).json() for _ in range(3)]
    assert len({answer["refresh_token"] for answer in answers}) == 1
    assert answers[0]["refresh_token"] != first


async def test_once_the_newest_is_used_the_one_before_is_refused_and_nothing_else_happens(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    first = ann.tokens["refresh_token"]
    await rotated(ann)
    await ann.get("/v1/account")  # the access token that came with the second is seen
    assert code(await refresh(ann, first)) == "refresh_refused"
    assert code(await refresh(ann, ann.tokens["refresh_token"])) == "ok"
    assert await notices(ann) == []


async def test_a_token_of_the_future_is_none(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    third = [await rotated(ann) for _ in range(2)][-1]
    await chat.execute("UPDATE refresh_families SET k = 1, is_used = false, retired_ms = '{}'")
    assert code(await refresh(ann, third)) == "refresh_refused"


@pytest.mark.long
async def test_a_hundred_uses_at_once_are_one_rotation(chat: RunningApp, counts: Any) -> None:
    ann = await chat.sign_up("ann")
    first = ann.tokens["refresh_token"]
    await refresh(ann, "chatty_r.x")  # the prover hears of a nonce
    answers: list[httpx.Response] = []

    async def use() -> None:
        answers.append(await refresh(ann, first))

    async with trio.open_nursery() as nursery:
        for _ in range(counts(100, 100)):
            nursery.start_soon(use)
    assert {answer.status_code for answer in answers} == {200}
    told = [(one["user"], one["device"], one["refresh_token"], one["expires_in_s"]) for one in map(_json, answers)]
    assert len(told) == 100
    assert len(set(told)) == 1
    assert await chat.rows("SELECT k FROM refresh_families") == [(2,)]


def _json(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()
    return found


# Thieves ------------------------------------------------------------------------------------------------------------


@pytest.mark.long
async def test_by_another_key_a_token_is_refused_and_lives_and_its_user_is_told_once(
    chat: RunningApp, counts: Any
) -> None:
    ann = await chat.sign_up("ann")
    thief = Prover(origin=ORIGIN, key=DpopKey(secrets.token_bytes(32)))
    await refresh(ann, "chatty_r.x", prover=thief)
    answers: list[str] = []

    async def use() -> None:
        answers.append(code(await refresh(ann, ann.tokens["refresh_token"], prover=thief)))

    async with trio.open_nursery() as nursery:
        for _ in range(counts(100, 100)):
            nursery.start_soon(use)
    assert answers == ["refresh_refused"] * 100
    assert code(await refresh(ann, ann.tokens["refresh_token"])) == "ok", "the family lives"
    assert await notices(ann) == [{"what": "wrong_key_shown", "device": ann.device}]
    assert await actions(chat) == ["session.wrong_key_shown"]


async def test_a_late_reuse_ends_the_log_in_session_and_tells_the_user(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    phone = await sign_in(ann)
    stolen = ann.tokens["refresh_token"]
    await rotated(ann)
    async with open_live_socket(phone) as witness, open_live_socket(ann) as socket:
        await chat.execute(_LATER)
        began = time.monotonic()
        assert code(await refresh(ann, stolen)) == "refresh_refused"
        assert (await socket.closed()).code == 4403
        assert time.monotonic() - began < 1
        notice = await _security(witness)
        assert notice == {"what": "refresh_token_reused", "device": ann.device}
    assert code(await refresh(ann, ann.tokens["refresh_token"])) == "refresh_refused"
    assert (await ann.answer("GET", "/v1/account")).json()["code"] == "device_revoked"
    assert await actions(chat) == ["session.ended"]
    listed = [one["device"] for one in (await phone.get("/v1/devices"))["devices"]]
    assert listed == [phone.device], "nobody encrypts for the ended session's device any more"


async def _security(socket: Any) -> dict[str, Any]:
    while True:
        event = await socket.event(UserEvent)
        if event.kind == "security":
            content: dict[str, Any] = event.content
            return content


async def test_within_a_minute_a_retired_token_ends_nothing(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    stolen = ann.tokens["refresh_token"]
    await rotated(ann)
    await rotated(ann)
    assert code(await refresh(ann, stolen)) == "refresh_refused"
    assert code(await ann.answer("GET", "/v1/account")) == "ok"


async def test_a_stale_or_repeated_proof_is_refused_before_the_token_is_looked_at(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    stolen = ann.tokens["refresh_token"]
    await rotated(ann)
    await ann.get("/v1/account")
    await chat.execute(_LATER)
    prover, body = ann.person.prover, {"refresh_token": stolen}
    repeated = prover.proof("POST", "/v1/token", nonce=prover.nonce)
    await chat.http.post("/v1/token", json={"refresh_token": "chatty_r.x"}, headers={"DPoP": repeated})
    old = prover.proof("POST", "/v1/token", nonce="1.x")
    for proofs, expected in (
        ([repeated], "invalid_dpop_proof"),
        ([old], "use_dpop_nonce"),
        ([], "invalid_dpop_proof"),
        ([prover.proof("POST", "/v1/token"), prover.proof("POST", "/v1/token")], "invalid_dpop_proof"),
    ):
        headers = [("DPoP", proof) for proof in proofs]
        answer = await chat.http.post("/v1/token", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, expected)
    assert code(await ann.answer("GET", "/v1/account")) == "ok", "the log-in session lives"


async def test_a_stolen_access_token_opens_nothing(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    for headers in (
        {"Authorization": f"DPoP {ann.access_token}"},
        {"Authorization": f"Bearer {ann.access_token}"},
        {"Authorization": f"Bearer {ann.access_token}", "DPoP": ann.person.prover.proof("GET", "/v1/account")},
    ):
        answer = await chat.http.get("/v1/account", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith('DPoP algs="EdDSA ES256"')
    by_eve = await eve.person.prover.ask(chat.http, "GET", "/v1/account", access_token=ann.access_token)
    assert code(by_eve) == "invalid_dpop_proof"
    async with open_raw_socket(chat.origin, device=eve) as socket:
        await socket.write(socket.hello(access_token=ann.access_token))
        assert (await socket.closed()).code == 4401


async def test_a_challenge_is_good_for_its_own_socket_alone(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_raw_socket(chat.origin, device=ann) as one, open_raw_socket(chat.origin, device=ann) as other:
        challenge = await one.event(frames.Challenge)
        assert (await other.event(frames.Challenge)).nonce != challenge.nonce
        await other.write(other.hello(dpop_proof=ann.proof(challenge.nonce)))
        assert (await other.closed()).code == 4401


# Restored databases -------------------------------------------------------------------------------------------------


async def test_after_a_restore_a_newer_token_is_believed_once(database: str, tmp_path: Any) -> None:
    async with open_chat(database, tmp_path) as chat:
        ann = await chat.sign_up("ann")
        fourth = [await rotated(ann) for _ in range(3)][-1]
        await chat.execute("UPDATE refresh_families SET k = 1, is_used = false, retired_ms = '{}'")
        await chat.execute("UPDATE server SET generation = generation + 1, generation_id = 'restored'")
    async with open_chat(database, tmp_path) as chat:
        ann.http = ann.person.http = chat.http
        assert code(await refresh(ann, fourth)) == "ok"
        assert await chat.rows("SELECT k, generation FROM refresh_families") == [(5, 2)]
        await chat.execute("UPDATE refresh_families SET k = 1, is_used = false, retired_ms = '{}'")
        assert code(await refresh(ann, fourth)) == "refresh_refused", "once for each family"
