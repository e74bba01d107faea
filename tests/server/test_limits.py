"""Limits from outside: at the edge the next one is refused, by name and with a time; a moment later it is let through."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from chatty.app import tree
from chatty.services import login_throttle
from chatty.telemetry import configure_logging
from chatty.wire import frames
from chatty.wire.events import Action, Policy, RoomRole
from tests.server.app_fixtures import RunningApp, open_chat, over_both_paths
from tests.server.commands import chatty_admin
from tests.server.wire_client import Refused, ciphertext, open_raw_socket, open_socket
from tests.server.wire_people import WireDevice

pytestmark = [*over_both_paths, pytest.mark.usefixtures("logging_as_before")]

SLOW = "1 per hour, burst"  # so that nothing comes back while a test lasts


@asynccontextmanager
async def limited(database: str, folder: Path, **limits: str) -> AsyncIterator[RunningApp]:
    changes: dict[str, Any] = {f"limit_{name}": rate for name, rate in limits.items()}
    configure_logging("error")  # to stderr: the commands of these tests answer on stdout
    async with open_chat(database, folder, **changes) as chat:
        yield chat


def check_refused(answer: httpx.Response, limiter: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["limiter"]) == (429, "rate_limited", limiter)
    assert int(answer.headers["Retry-After"]) >= problem["retry_after_s"] > 0
    assert problem["is_retryable"]


async def console(chat: RunningApp, *words: str) -> dict[str, Any]:
    result = await chatty_admin(chat.settings.data_dir, "limits", *words, "--json")
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


# HTTP ---------------------------------------------------------------------------------------------------------------


async def test_an_address_is_limited_whatever_it_asks_for(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, requests_address=f"{SLOW} 3") as chat:
        for path in ("/v1/server", "/v1/nowhere", "/v1/account"):
            assert (await chat.http.get(path)).status_code in (200, 404, 401)
        for path in ("/v1/server", "/v1/nowhere", "/v1/account"):
            check_refused(await chat.http.get(path), "requests_address")


async def test_whoever_waits_as_long_as_told_is_let_through(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, requests_address="20 per second, burst 1") as chat:
        answer = await chat.http.get("/v1/server")
        while answer.status_code == 200:
            answer = await chat.http.get("/v1/server")
        await trio.sleep(answer.json()["retry_after_s"])
        assert (await chat.http.get("/v1/server")).status_code == 200


async def test_without_trusted_proxies_nobody_chooses_an_address(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, requests_address=f"{SLOW} 2") as chat:
        answers = [
            await chat.http.get("/v1/server", headers={"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(1, 4)
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_behind_a_trusted_proxy_each_client_has_an_address(database: str, tmp_path: Path) -> None:
    async with open_chat(
        database, tmp_path, limit_requests_address=f"{SLOW} 1", trusted_proxies="127.0.0.0/8, 10.0.0.0/8"
    ) as chat:

        async def status(forwarded: str) -> int:
            return (await chat.http.get("/v1/server", headers={"X-Forwarded-For": forwarded})).status_code

        assert [await status("198.51.100.1"), await status("198.51.100.2"), await status("198.51.100.1")] == [
            200,
            200,
            429,
        ]
        assert await status("198.51.100.77, 198.51.100.1, 10.1.1.1") == 429, "what the client wrote counts for nothing"
        assert await status("2001:db8::1") == 200
        assert await status("2001:db8::ffff") == 429, "one customer has the whole /64"


@pytest.mark.parametrize("limiter", ["requests_account", "requests_device", "requests_route"])
async def test_a_signed_in_device_is_limited(database: str, tmp_path: Path, limiter: str) -> None:
    async with limited(database, tmp_path, **{limiter: f"{SLOW} 3"}) as chat:
        ann, ben = await chat.sign_up_all("ann", "ben")  # keys are uploaded: one request each, of another route
        answers = [await ann.answer("GET", "/v1/account") for _ in range(4)]
        check_refused(answers[-1], limiter)
        assert answers[0].status_code == 200
        assert (await ben.answer("GET", "/v1/account")).status_code == 200, "others are not"
        devices = await ann.answer("GET", "/v1/devices")
        assert devices.status_code == (200 if limiter == "requests_route" else 429)


async def test_names_are_looked_up_at_a_limited_rate_however_they_are_asked_for(database: str, tmp_path: Path) -> None:
    """So nobody reads out who has an account, though the answers tell."""
    async with limited(database, tmp_path, lookups_account=f"{SLOW} 7") as chat:
        ann, ben = await chat.sign_up_all("ann", "ben")
        room = await ann.create_room()
        nobody: dict[str, list[str]] = {f"@nobody-{number}:localhost": [] for number in range(2)}

        async def query(by: WireDevice) -> httpx.Response:
            return await by.answer("POST", "/v1/keys/query", {"device_keys": nobody})

        async def ban() -> httpx.Response:
            change = ann.change(room.id, Action.BAN, ben, await ann.position(room.id))
            return await ann.answer("POST", f"/v1/rooms/{room.id}/members", ann.signed(change), n=change.n)

        async def invite() -> httpx.Response:
            signed = (await room.invitation(ann, ben)).signed
            return await ann.answer("POST", f"/v1/rooms/{room.id}/invitations", ann.signed(signed), n=signed.n)

        async def create_direct() -> httpx.Response:
            body = ann.creation(Policy(history="joined", invite=RoomRole.OWNER), other=ben)["body"]
            return await ann.answer("POST", "/v1/rooms", body, n=body["create"]["signed"]["n"])

        async def block(method: str) -> httpx.Response:
            return await ann.answer(method, f"/v1/blocks/{ben.user}")

        ways: list[Callable[[], Awaitable[httpx.Response]]] = [partial(query, ann), invite, ban, create_direct]
        ways += [partial(block, "PUT"), partial(block, "DELETE")]
        answers = [await way() for way in ways]
        assert [answer.is_success for answer in answers] == [True] * 6, [answer.text for answer in answers]
        for way in ways:
            check_refused(await way(), "lookups_account")
        assert (await query(ben)).status_code == 200, "others are not"
        assert (await ann.create_room()).epoch > 0, "nor what names nobody"


async def test_a_refused_request_was_not_done(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, sends_device=f"{SLOW} 1") as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        assert (await post_message(ann, room.id, room.epoch)).status_code == 200
        check_refused(await post_message(ann, room.id, room.epoch), "sends_device")
        assert len(await ann.all_history(room.id)) == 3, "the creation, the join and one message"


async def post_message(device: WireDevice, room: str, epoch: int) -> httpx.Response:
    n = device.take_n()
    body = {
        "low": n,
        "epoch": epoch,
        "algorithm": "m.megolm.v1.aes-sha2",
        "session_id": "S" * 43,
        "body": ciphertext(),
    }
    for open_n in list(device.unsettled - {n}):
        device.settle(open_n)
    return await device.answer("POST", f"/v1/rooms/{room}/messages", body, n=n)


# The socket ---------------------------------------------------------------------------------------------------------


async def test_sends_are_limited_at_the_edge_also_after_connecting_anew(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, sends_device=f"{SLOW} 3") as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        async with open_socket(ann) as socket:
            for _ in range(3):
                await socket.send(room.id, ciphertext(), epoch=room.epoch)
            with pytest.raises(Refused) as refused:
                await socket.send(room.id, ciphertext(), epoch=room.epoch)
        error = refused.value.error
        assert (error.code, error.details, error.is_retryable) == ("rate_limited", {"limiter": "sends_device"}, True)
        assert 0 < (error.retry_after_s or 0) <= 3_600
        async with open_socket(ann) as socket:
            with pytest.raises(Refused, match="rate_limited"):
                await socket.send(room.id, ciphertext(), epoch=room.epoch)


async def test_a_refused_send_may_come_again_under_its_n(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, sends_device="20 per second, burst 1") as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        refused_n, wait_s = None, 0.0
        async with open_socket(ann) as socket:
            while refused_n is None:
                n = ann.take_n()
                try:
                    await socket.send(room.id, ciphertext(), epoch=room.epoch, n=n)
                except Refused as refused:
                    refused_n, wait_s = n, refused.error.retry_after_s or 0
            await trio.sleep(wait_s)
            ack = await socket.send(room.id, ciphertext(), epoch=room.epoch, n=refused_n)
        assert ack.n == refused_n


async def test_other_requests_on_a_socket_are_limited_apart(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, frames_device=f"{SLOW} 2") as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        async with open_socket(ann) as socket:
            for _ in range(2):
                await socket.ask(frames.Ping(id=socket.request_id()))
            with pytest.raises(Refused) as refused:
                await socket.ask(frames.Ping(id=socket.request_id()))
            assert refused.value.error.details == {"limiter": "frames_device"}
            await socket.send(room.id, ciphertext(), epoch=room.epoch)


async def test_sockets_too_many_from_one_address_are_closed(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, sockets_address=f"{SLOW} 1") as chat:
        ann = await chat.sign_up("ann")
        async with open_socket(ann):
            pass
        async with open_raw_socket(ann.origin) as socket:
            error = await socket.event(frames.Error)
            assert (error.id, error.code, error.details) == (0, "rate_limited", {"limiter": "sockets_address"})
            assert (await socket.closed()).code == 4411


# The operator's side ------------------------------------------------------------------------------------------------


async def test_the_operator_learns_why_a_user_was_limited(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, requests_route=f"{SLOW} 1", frames_device=f"{SLOW} 1") as chat:
        ann = await chat.sign_up("ann")
        for _ in range(3):
            await ann.answer("GET", "/v1/account")
        async with open_socket(ann) as socket:
            await socket.ask(frames.Ping(id=socket.request_id()))
            with pytest.raises(Refused):
                await socket.ask(frames.Ping(id=socket.request_id()))
        told = (await console(chat, "why", ann.user))["refusals"]
        assert [(one["limiter"], one["what"], one["count"]) for one in told] == [
            ("frames_device", "websocket", 1),
            ("requests_route", "get_v1_account", 2),
        ]
        assert (await console(chat, "why", ann.device))["refusals"][0]["limiter"] == "frames_device"
        assert (await console(chat, "why", "127.0.0.1"))["refusals"][1]["count"] == 2
        assert (await console(chat, "why", "@nobody:localhost"))["refusals"] == []
        moderator = await chat.sign_up_as("moderator")
        shown = await moderator.get(f"/v1/admin/users/{ann.user}/refusals")
        assert shown["subject"] == ann.user
        assert [(one["limiter"], one["count"]) for one in shown["refusals"]] == [
            ("frames_device", 1),
            ("requests_route", 2),
        ]


async def test_over_http_the_refusals_of_users_alone_are_told(chat: RunningApp) -> None:
    auditor = await chat.sign_up_as("auditor")
    for subject, status in (("@nobody:localhost", 404), ("127.0.0.1", 400), (auditor.device, 400), (auditor.user, 200)):
        assert (await auditor.answer("GET", f"/v1/admin/users/{subject}/refusals")).status_code == status


async def test_the_operator_sees_every_limiter(database: str, tmp_path: Path) -> None:
    async with limited(database, tmp_path, requests_address="60 per minute, burst 1", sends_device="off") as chat:
        await chat.http.get("/v1/server")
        await chat.http.get("/v1/server")
        listed = {one["limiter"]: one for one in (await console(chat, "list"))["limits"]}
    assert listed["requests_address"] == {
        "limiter": "requests_address",
        "counts": "HTTP requests from one address.",
        "burst_count": 1,
        "per_s": 1,
        "buckets_count": 1,
        "refused_count": 1,
    }
    assert listed["sends_device"]["burst_count"] is None


async def test_a_running_server_forgets_failed_log_ins_that_are_old(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "forget_interval_s", 0.05)
    async with limited(database, tmp_path) as chat:
        ann = await chat.sign_up("ann")
        body = await ann.person.login(signature="A" * 86)
        assert (await chat.http.post("/v1/login", json=body)).json()["code"] == "login_refused"
        assert await delays_count(chat) == 2, "for the name from this address, and for the name"
        monkeypatch.setattr(login_throttle, "forgotten_after_s", 0.0)
        with trio.fail_after(20):
            while await delays_count(chat):  # noqa: ASYNC110 # an actor of the server forgets it
                await trio.sleep(0.05)


async def delays_count(chat: RunningApp) -> int:
    listed = (await console(chat, "list"))["limits"]
    return sum(one["buckets_count"] for one in listed if one["limiter"].startswith("logins_account"))
