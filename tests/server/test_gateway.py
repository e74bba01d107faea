"""The WebSocket: greeting, frames, limits, endings."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import get_args

import psycopg
import pytest
import trio

from chatty.ids import RoomId, Seq
from chatty.wire import frames, limits
from chatty.wire.events import TimelineEvent
from chatty.wire.frames import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL, Encoding
from tests.server.app_fixtures import RunningApp, open_chat, over_both_paths
from tests.server.test_listener import open_bare
from tests.server.wire_client import (
    UNPROVEN,
    Refused,
    WireSocket,
    ciphertext,
    cursor,
    open_live_socket,
    open_raw_socket,
    open_socket,
)
from tests.server.wire_people import WireDevice, sign_in

pytestmark = over_both_paths


@pytest.fixture(params=get_args(Encoding))
def encoding(request: pytest.FixtureRequest) -> Encoding:
    found: Encoding = request.param
    return found


@asynccontextmanager
async def open_greeted(device: WireDevice, *, encoding: Encoding = "json") -> AsyncIterator[WireSocket]:
    """The challenge was taken, nothing was said yet."""
    async with open_raw_socket(device.origin, encoding=encoding, device=device) as socket:
        await socket.event(frames.Challenge)
        yield socket


async def ended_with(socket: WireSocket) -> tuple[int, str]:
    """Close code and code of the error that came before it, with id 0."""
    reason = await socket.closed()
    error = await socket.event(frames.Error)
    assert error.id == 0
    assert reason.reason == error.code
    return reason.code, error.code


# Greeting -----------------------------------------------------------------------------------------------------------


async def test_two_people_exchange_messages_in_either_encoding(chat: RunningApp, encoding: Encoding) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with (
        open_live_socket(ann, encoding=encoding) as anns,
        open_live_socket(bob, encoding=encoding) as bobs,
    ):
        body = ciphertext()
        ack = await anns.send(room.id, body, epoch=room.epoch)
        [event] = await bobs.messages(1)
        assert (event.seq, event.body, event.sender, event.device) == (ack.seq, body, ann.user, ann.device)
        [own] = await anns.messages(1)
        assert own == event


async def test_people_with_different_encodings_read_the_same(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann, encoding="json") as anns, open_live_socket(bob, encoding="msgpack") as bobs:
        await anns.send(room.id, ciphertext(), epoch=room.epoch)
        await bobs.send(room.id, ciphertext(), epoch=room.epoch)
        assert await anns.messages(2) == await bobs.messages(2)


async def test_the_server_speaks_first_and_welcome_answers_hello(chat: RunningApp, encoding: Encoding) -> None:
    ann = await chat.sign_up("ann")
    async with open_raw_socket(chat.origin, encoding=encoding, device=ann) as socket:
        challenge = await socket.event(frames.Challenge)
        assert challenge.generation.number == 1
        assert challenge.nonce
        welcome = await socket.ask(socket.hello())
        assert welcome == frames.Welcome(
            id=1, user=ann.user, device=ann.device, highest_n=Seq(0), low=Seq(1), heartbeat_interval_s=30.0
        )
        assert (await socket.event(frames.OneTimeKeyCounts)).counts == {"signed_curve25519": 0}
        await socket.event(frames.Resumed)


async def test_the_first_of_the_offered_subprotocols_that_is_known_is_chosen(chat: RunningApp) -> None:
    offered = ["chatty.v9+cbor", JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL]
    async with open_raw_socket(chat.origin, encoding="json", subprotocols=offered) as socket:
        assert socket.inner.subprotocol == JSON_SUBPROTOCOL
        await socket.event(frames.Challenge)


async def test_without_a_known_subprotocol_the_socket_is_closed(chat: RunningApp) -> None:
    for offered in ([], ["chatty.v9+cbor"]):
        async with open_raw_socket(chat.origin, subprotocols=offered) as socket:
            reason = await socket.closed()
            assert (reason.code, reason.reason) == (4406, "unsupported_version")


async def test_a_request_before_hello_ends_the_connection(chat: RunningApp, encoding: Encoding) -> None:
    ann = await chat.sign_up("ann")
    async with open_greeted(ann, encoding=encoding) as socket:
        await socket.write(frames.Ping(id=7))
        assert await ended_with(socket) == (4400, "hello_expected")


async def test_hello_stands_alone_in_its_frame(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_greeted(ann) as socket:
        await socket.write(socket.hello(), frames.Ping(id=7))
        assert await ended_with(socket) == (4400, "hello_expected")


@pytest.mark.parametrize("padding", [0, 1])
async def test_the_first_message_is_as_large_as_its_limit_and_no_larger(chat: RunningApp, padding: int) -> None:
    ann = await chat.sign_up("ann")
    async with open_greeted(ann) as socket:
        hello = frames.encode(await socket.proven(socket.hello()), encoding="json")
        await socket.write_raw(hello + b" " * (limits.hello_bytes_max - len(hello) + padding))
        if padding == 0:
            await socket.event(frames.Welcome)
        else:
            assert (await socket.closed()).code == 1009


@pytest.mark.parametrize("character", ["a", "é", "😀"])
async def test_the_limit_of_the_first_message_counts_bytes(chat: RunningApp, character: str) -> None:
    count_max = limits.hello_bytes_max // len(character.encode())
    for count, code in ((count_max, 4411), (count_max + 1, 1009)):
        async with open_raw_socket(chat.origin, encoding="json") as socket:
            await socket.write_raw(character * count)
            assert (await socket.closed()).code == code


async def test_what_follows_a_hello_at_once_may_be_as_large_as_a_frame(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    cursors = [cursor(room_like(at), 0) for at in range(limits.cursors_per_frame_max)]
    async with open_greeted(ann, encoding="msgpack") as socket:
        hello = socket.hello(more=True)
        pages = [frames.Cursors(id=socket.request_id(), cursors=cursors, more=at < 7) for at in range(8)]
        assert len(frames.encode(pages, encoding="msgpack")) > 3 * limits.hello_bytes_max
        await socket.write(hello)
        await socket.write(*pages)
        assert isinstance(await socket.answer(hello.id), frames.Welcome)


async def test_a_second_hello_is_refused_and_the_connection_goes_on(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann) as socket:
        with pytest.raises(Refused, match="bad_request"):
            await socket.ask(socket.hello())
        await socket.settle()


async def test_who_says_no_hello_in_time_is_closed(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, hello_timeout_s=0.1) as chat, open_raw_socket(chat.origin) as socket:
        assert await ended_with(socket) == (4408, "hello_timeout")


async def test_who_is_slow_with_the_pages_of_a_hello_is_closed(database: str, tmp_path: Path) -> None:
    async with (
        open_chat(database, tmp_path, hello_timeout_s=0.2) as chat,
        open_greeted(await chat.sign_up("ann")) as socket,
    ):
        await socket.write(socket.hello(more=True))
        assert await ended_with(socket) == (4408, "hello_timeout")


async def test_cursors_come_in_pages(chat: RunningApp, encoding: Encoding) -> None:
    ann = await chat.sign_up("ann")
    rooms = [await ann.create_room() for _ in range(3)]
    async with open_greeted(ann, encoding=encoding) as socket:
        hello = socket.hello(cursors=[cursor(rooms[0].id, 2)], more=True)
        await socket.write(hello)
        for room, more in ((rooms[1], True), (rooms[2], False)):
            page = frames.Cursors(id=socket.request_id(), cursors=[cursor(room.id, 1)], more=more)
            assert await socket.ask(page) == frames.Done(id=page.id)
        assert isinstance(await socket.answer(hello.id), frames.Welcome)
        await socket.event(frames.Resumed)
        seen = [(event.room, event.seq) for event in socket.pending if isinstance(event, TimelineEvent)]
        assert sorted(seen) == sorted([(rooms[1].id, 2), (rooms[2].id, 2)])


async def test_a_page_holds_500_cursors_and_no_more(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    unknown = [cursor(room_like(at), 0) for at in range(limits.cursors_per_frame_max + 1)]
    async with open_greeted(ann) as socket:
        await socket.ask(socket.hello(cursors=unknown[:-1]))
    async with open_greeted(ann) as socket:
        await socket.write(socket.hello(cursors=unknown))
        assert await ended_with(socket) == (4411, "bad_request")


@pytest.mark.parametrize("count", [10_000, 10_001])
async def test_a_client_resumes_from_10000_cursors_and_no_more(chat: RunningApp, count: int) -> None:
    ann = await chat.sign_up("ann")
    cursors = [cursor(room_like(at), 0) for at in range(count)]
    pages = [cursors[at : at + 500] for at in range(0, count, 500)]
    async with open_greeted(ann, encoding="msgpack") as socket:
        hello = socket.hello(cursors=pages[0], more=True)
        await socket.write(hello)
        for at, page in enumerate(pages[1:], start=2):
            await socket.write(frames.Cursors(id=socket.request_id(), cursors=page, more=at < len(pages)))
        if count == 10_000:
            assert isinstance(await socket.answer(hello.id), frames.Welcome)
        else:
            assert await ended_with(socket) == (4411, "bad_request")


def room_like(at: int) -> RoomId:
    return RoomId(f"!{at:043}")


# Requests and frames ------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_under_its_id(chat: RunningApp, encoding: Encoding) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann, encoding=encoding) as socket:
        for request_id in (1, 4_294_967_295):
            assert await socket.ask(frames.Ping(id=request_id)) == frames.Done(id=request_id)


async def test_an_id_outside_its_range_is_no_request(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann) as socket:
        for request_id in (0, 4_294_967_296, -1):
            await socket.write(frames.Ping(id=request_id))
            error = await socket.event(frames.Error)
            assert (error.id, error.code) == (0, "bad_request")
        await socket.settle()


async def test_a_frame_holds_256_requests_and_no_more(chat: RunningApp, encoding: Encoding) -> None:
    ann = await chat.sign_up("ann")
    pings = [frames.Ping(id=at) for at in range(1, limits.requests_per_frame_max + 2)]
    async with open_live_socket(ann, encoding=encoding) as socket:
        await socket.write(*pings[:-1])
        done = await socket.events(frames.Done, limits.requests_per_frame_max)
        assert [one.id for one in done] == list(range(1, 257))
        await socket.write(*pings)
        error = await socket.event(frames.Error)
        assert (error.id, error.code) == (0, "bad_request")
        assert not [event for event in await socket.settle() if isinstance(event, frames.Done)]


async def test_an_empty_list_is_no_request(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann, encoding="json") as socket:
        await socket.write_raw("[]")
        assert (await socket.event(frames.Error)).code == "bad_request"
        await socket.settle()


async def test_answers_that_queue_together_come_in_few_frames(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann) as socket:
        before = socket.received_frames_count
        await socket.write(*(frames.Ping(id=at) for at in range(1, 257)))
        await socket.events(frames.Done, 256)
        assert socket.received_frames_count - before <= 8


async def test_two_open_requests_under_one_id_are_both_answered(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        second = socket.draft(room.id, ciphertext(), epoch=room.epoch, id=9)
        for other, code in ((second, "bad_request"), (frames.CheckpointRequest(id=9, room=room_like(0)), "not_found")):
            draft = socket.draft(room.id, ciphertext(), epoch=room.epoch, id=9)
            await socket.write(draft, other)
            answers = [await socket.answer(9), await socket.answer(9)]
            [error] = [one for one in answers if isinstance(one, frames.Error)]
            [ack] = [one for one in answers if isinstance(one, frames.Ack)]
            assert (error.code, ack.n) == (code, draft.n)


@pytest.mark.parametrize("padding", [0, 1])
async def test_a_frame_may_be_as_large_as_the_limit(chat: RunningApp, padding: int) -> None:
    ann = await chat.sign_up("ann")
    ping = json.dumps({"type": "ping", "id": 7})
    async with open_live_socket(ann, encoding="json") as socket:
        await socket.write_raw(ping + " " * (limits.frame_bytes_max - len(ping) + padding))
        if padding == 0:
            await socket.answer(7)
        else:
            assert (await socket.closed()).code == 1009


async def test_the_limit_of_a_text_frame_counts_bytes(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann, encoding="json") as socket:
        await socket.write_raw(json.dumps("é" * (limits.frame_bytes_max // 2), ensure_ascii=False))
        error = await socket.event(frames.Error)
        assert (error.id, error.code) == (0, "too_large")
        assert error.details == {"limit": "frame_bytes_max", "bytes_max": limits.frame_bytes_max}
        await socket.settle()


async def test_the_server_pings_an_idle_socket(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, heartbeat_interval_s=0.05) as chat:
        async with await open_bare(chat) as stream:
            received = b""
            with trio.fail_after(5):
                while received.count(b"\x89\x00") < 3:
                    received += await stream.receive_some()
        async with open_greeted(await chat.sign_up("ann")) as socket:
            welcome = await socket.ask(socket.hello())
            assert isinstance(welcome, frames.Welcome)
            assert welcome.heartbeat_interval_s == 0.05


async def test_hellos_beyond_those_worked_on_wait_their_turn_and_none_is_refused(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, hellos_max=1, hello_timeout_s=1.0) as chat, AsyncExitStack() as stack:
        people = await chat.sign_up_all("ann", "bob", "cid")
        sockets = [await stack.enter_async_context(open_greeted(one)) for one in people]
        hellos = [socket.hello() for socket in sockets]
        with psycopg.connect(database) as connection:
            connection.execute("LOCK TABLE devices IN ACCESS EXCLUSIVE MODE")
            for socket, hello in zip(sockets, hellos, strict=True):
                await socket.write(hello)
            await trio.sleep(1.2)  # longer than a hello may take to come
        for socket, hello in zip(sockets, hellos, strict=True):
            assert isinstance(await socket.answer(hello.id), frames.Welcome)


async def test_who_dawdles_with_its_cursors_keeps_nobody_waiting(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, hellos_max=1) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        async with open_greeted(ann) as anns:
            await anns.write(anns.hello(more=True))
            async with open_live_socket(bob) as bobs:
                await bobs.settle()


async def test_more_sockets_than_may_be_open_are_refused_also_before_their_hello(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, sessions_max=2) as chat:
        ann = await chat.sign_up("ann")
        async with open_raw_socket(chat.origin) as silent, open_live_socket(ann) as live:
            async with open_raw_socket(chat.origin) as third:
                assert await ended_with(third) == (4411, "overloaded")
            await silent.event(frames.Challenge)
            await live.settle()
        await until_connected(chat, 0)
        async with open_live_socket(ann) as again:
            await again.settle()


# Endings ------------------------------------------------------------------------------------------------------------


async def test_a_new_hello_of_a_device_supersedes_its_older_socket(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as older, open_live_socket(ann) as newer:
        assert await ended_with(older) == (4409, "superseded")
        await newer.send(room.id, ciphertext(), epoch=room.epoch)
        await newer.messages(1)


async def test_two_devices_of_a_person_are_connected_side_by_side(chat: RunningApp) -> None:
    laptop = await chat.sign_up("ann")
    phone = await sign_in(laptop)
    room = await laptop.create_room()
    async with open_live_socket(laptop) as one, open_live_socket(phone) as other:
        await one.send(room.id, ciphertext(), epoch=room.epoch)
        assert await one.messages(1) == await other.messages(1)


async def test_the_socket_of_a_revoked_device_closes_within_a_second(chat: RunningApp) -> None:
    laptop = await chat.sign_up("ann")
    phone = await sign_in(laptop)
    async with open_live_socket(phone) as socket:
        with trio.fail_after(1):
            await laptop.answer("DELETE", f"/v1/devices/{phone.device}")
            assert await ended_with(socket) == (4403, "device_revoked")
    async with open_greeted(phone) as socket:
        await socket.write(socket.hello())
        assert await ended_with(socket) == (4403, "device_revoked")


async def test_signing_out_closes_the_own_socket(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann) as socket:
        await ann.post("/v1/logout", {})
        assert await ended_with(socket) == (4403, "device_revoked")


async def test_a_token_ends_its_socket_unless_a_fresh_one_came_in_time(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, access_token_lifetime_s=4, revocation_poll_interval_s=0.1) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs, trio.open_nursery() as nursery:
            nursery.start_soon(keep_fresh, bobs)
            with trio.fail_after(15):
                assert await ended_with(anns) == (4402, "token_expired")
            nursery.cancel_scope.cancel()
        async with open_greeted(bob) as socket:
            await socket.ask(socket.hello())
        async with open_greeted(ann) as socket:
            await socket.write(socket.hello())
            assert await ended_with(socket) == (4402, "token_expired")


async def keep_fresh(socket: WireSocket) -> None:
    """Refresh well before each access token's end, over the open socket."""
    while True:
        answer = await socket.device.person.refresh(socket.device.tokens["refresh_token"])
        socket.device.tokens = answer.json()
        await socket.ask(
            frames.Token(id=socket.request_id(), access_token=socket.device.access_token, dpop_proof=UNPROVEN)
        )
        await trio.sleep(0.5)


async def test_a_token_of_another_device_is_refused_and_the_connection_goes_on(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    async with open_live_socket(ann) as socket:
        assert socket.nonce is not None
        for token, proof, code in (
            (bob.access_token, UNPROVEN, "invalid_dpop_proof"),
            (bob.access_token, bob.proof(socket.nonce), "unauthenticated"),
            ("not-a-token", UNPROVEN, "unauthenticated"),
        ):
            with pytest.raises(Refused, match=code):
                await socket.ask(frames.Token(id=socket.request_id(), access_token=token, dpop_proof=proof))
        await socket.settle()


async def test_a_draining_server_tells_its_sockets_when_to_come_back(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann) as socket:
        chat.app.begin_drain()
        chat.app.end_sockets()
        reason = await socket.closed()
        error = await socket.event(frames.Error)
        assert (reason.code, error.code, error.is_retryable) == (4410, "shutting_down", True)
        assert error.retry_after_s is not None
        assert 1.0 <= error.retry_after_s <= 2.0
    assert (await chat.http.get("/readyz")).status_code == 503


async def test_who_goes_without_a_word_is_forgotten(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    async with open_live_socket(ann):
        assert len(chat.app.directory) == 1
    await until_connected(chat, 0)


async def test_what_a_client_had_in_flight_when_it_went_is_committed_all_the_same(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    body = ciphertext()
    async with open_live_socket(bob) as bobs:
        async with open_live_socket(ann) as anns:
            await anns.write(anns.draft(room.id, body, epoch=room.epoch))
        [event] = await bobs.messages(1)
        assert event.body == body


async def until_connected(chat: RunningApp, count: int) -> None:
    """Until so many sessions are known."""
    with trio.fail_after(5):
        while len(chat.app.directory) != count:
            await chat.app.directory.wait_empty()


async def test_hello_needs_no_cursor(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_socket(ann) as socket:
        await socket.event(frames.Resumed)
        assert [event.seq for event in socket.pending if isinstance(event, TimelineEvent)] == [1, 2]
        assert room.epoch == 2
