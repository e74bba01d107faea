"""The direct path below the protocol: what goes past Hypercorn is what would have gone through it; nothing is torn or lost."""

import datetime
import importlib.metadata
import socket as sockets
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypercorn.trio.tcp_server import TCPServer
from quart_trio import QuartTrio

from chatty.actors.sessions import SocketClosed
from chatty.cli import hypercorn_config
from chatty.web import listener
from chatty.web.admission import Admission
from chatty.web.direct import DirectGateway, DirectSocket, accepted
from chatty.web.tcp import Outlet, direct_of, turns_between_checkpoints
from chatty.wire.websocket import server_frame
from tests.fuzz.client_frames import (
    CORPUS,
    UPGRADE,
    Heard,
    check_alike,
    frame,
    heard_of,
    message_bytes_max,
    open_connection,
    send_mutated,
    server_frames,
)
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import ciphertext, open_live_socket

_NONE, _TEXT, _BINARY, _CLOSE, _PING = 0, 1, 2, 8, 9
BEFORE, AFTER = frame(_BINARY, b"before"), frame(_BINARY, b"after")
OUTCOMES: dict[str, tuple[bytes, list[bytes | str], int | None]] = {
    "two fragments": (frame(_TEXT, b"a", is_final=False) + frame(_NONE, b"b"), ["ab"], None),
    "a control frame between fragments": (
        frame(_BINARY, b"a", is_final=False) + frame(_PING, b"?") + frame(_NONE, b"b"),
        [b"ab"],
        None,
    ),
    "a fragment without a beginning": (frame(_NONE, b"b"), [], 1002),
    "a message within a message": (frame(_TEXT, b"a", is_final=False) + frame(_TEXT, b"b"), [], 1002),
    "a reserved bit": (frame(_BINARY | 0x40, b"x"), [], 1002),
    "a reserved opcode": (frame(3, b"x"), [], 1002),
    "no mask": (server_frame(b"x", is_text=False), [], 1002),
    "a ping that is too large": (frame(_PING, bytes(126)), [], 1002),
    "a size in too many bytes": (b"\x82\xfe\x00\x01" + bytes(5), [], 1002),
    "a message that is too large": (frame(_BINARY, bytes(message_bytes_max + 1)), [], 1009),
    "fragments that are too large together": (
        frame(_BINARY, bytes(message_bytes_max), is_final=False) + frame(_NONE, b"x"),
        [],
        1009,
    ),
    "text that is no UTF-8": (frame(_TEXT, b"\xc3\x28"), [], 1007),
    "a close": (frame(_CLOSE, b"\x0b\xb8why"), [], 3000),
}


@pytest.mark.parametrize("name", OUTCOMES)
async def test_both_paths_judge_alike(name: str) -> None:
    sent, messages, close_code = OUTCOMES[name]
    heard = await check_alike([BEFORE + sent + AFTER])
    assert heard.close_code == close_code
    assert heard.messages == [b"before", *messages, *([b"after"] if close_code is None else [])]


async def test_what_is_wrong_in_a_frame_that_stays_unfinished_is_told_at_the_end() -> None:
    assert (await check_alike([BEFORE, frame(_TEXT, b"\xff" * 20)[:-5]])).close_code == 1007


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
async def test_frames_may_be_cut_at_every_byte(name: str) -> None:
    stream = await trio.Path(CORPUS / name).read_bytes()
    whole = await check_alike([stream])
    places = range(1, len(stream)) if len(stream) < 300 else [1, 2, 5, 13, 14, 15, len(stream) // 2, len(stream) - 1]
    for place in places:
        heard = await heard_of("direct", [stream[:place], stream[place:]])
        assert (heard.messages, heard.controls) == (whole.messages, whole.controls)
    assert (await heard_of("direct", [bytes([byte]) for byte in stream[:300]])).messages == [
        *(await heard_of("plain", [stream[:300]])).messages
    ]


@pytest.mark.long
async def test_mutated_frames_are_heard_alike_on_both_paths(seed: int, counts: Callable[[int, int], int]) -> None:
    assert await send_mutated(counts(1_500, 50_000), seed, told=print) > 0


# What leaves --------------------------------------------------------------------------------------------------------


def serving(serve: Callable[[DirectSocket, trio.Nursery], Awaitable[None]]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        way, admission = direct_of(scope), Admission()
        assert way is not None
        async with accepted(way, admission, receive, send), trio.open_nursery() as nursery:
            await serve(DirectSocket(way, admission, send, "msgpack"), nursery)
            nursery.cancel_scope.cancel()

    return app


async def read_slowly(stream: trio.SocketStream, *, seconds: int) -> bytes:
    """A byte a second; then all there is."""
    received = b""
    for _ in range(seconds):
        received += await stream.receive_some(1)
        await trio.sleep(1)
    while data := await stream.receive_some():
        received += data
    return received


async def test_who_reads_a_byte_a_second_gets_every_frame_whole_and_in_order_and_pings_between_them() -> None:
    payloads = [bytes([number % 256]) * 20_000 for number in range(200)]
    taken: list[int] = []

    async def send_all(socket: DirectSocket, _: trio.Nursery) -> None:
        for payload in payloads:
            data = server_frame(payload, is_text=False)
            taken.append(socket.try_send(data))
            if taken[-1] == 0:
                await socket.send(payload)
            elif taken[-1] < len(data):
                await socket.send(b"")
        await socket.close(1000, "that was all")

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            stream = await open_connection(nursery, serving(send_all), ping_interval_s=0.2)
            received = list(server_frames(await read_slowly(stream, seconds=3)))
            await stream.aclose()
    assert [payload for first, payload in received if first == 0x82] == payloads
    assert {first for first, _ in received} == {0x82, 0x88, 0x89}
    assert any(0 < count < 20_004 for count in taken), "no frame was taken in part: this shows nothing"


async def test_while_somebody_waits_to_write_nobody_writes_before() -> None:
    order: list[str] = []

    async def write(socket: DirectSocket, nursery: trio.Nursery) -> None:
        while socket.try_send(server_frame(b"-" * 50_000, is_text=False)) == 50_004:
            pass
        nursery.start_soon(socket.send, b"one")
        nursery.start_soon(socket.send, b"two")
        await trio.testing.wait_all_tasks_blocked()
        assert socket.try_send(server_frame(b"never", is_text=False)) == 0
        order.append("tried")
        with pytest.raises(SocketClosed):
            await socket.receive()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            stream = await open_connection(nursery, serving(write))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert order == ["tried"]
            received = b""
            while not received.endswith((b"\x82\x03one", b"\x82\x03two")) or received.count(b"\x82\x03") < 2:
                received += await stream.receive_some()
            await stream.aclose()
    found = [payload for _, payload in server_frames(received)]
    assert sorted(found[-2:]) == [b"one", b"two"]
    assert set(found[:-2]) == {b"-" * 50_000}


async def test_whose_turn_it_is_writes_though_nothing_is_left() -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        outlet = Outlet(ours)
        async with outlet._turn:
            assert outlet.try_send(b"before") == 0
        assert outlet.try_send(b"now") == 3
        assert await theirs.recv(100) == b"now"


async def test_who_is_cancelled_while_writing_leaves_no_half_of_a_frame() -> None:
    async def write(socket: DirectSocket, _: trio.Nursery) -> None:
        for number in range(100):
            with trio.move_on_after(0.01):
                await socket.send(bytes([number]) * 20_000)
        await socket.close(1000, "")

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            stream = await open_connection(nursery, serving(write))
            received = list(server_frames(await read_slowly(stream, seconds=1)))
            await stream.aclose()
    found = [payload for first, payload in received if first == 0x82]
    assert [len(payload) for payload in found] == [20_000] * len(found)
    assert found == sorted(found)
    assert len(found) < 100, "nobody was cancelled: this shows nothing"


async def test_nothing_is_written_once_the_peer_has_gone_or_was_closed() -> None:
    taken: list[int] = []

    async def leave(socket: DirectSocket, _: trio.Nursery) -> None:
        with pytest.raises(SocketClosed):
            await socket.receive()
        taken.append(socket.try_send(b"late"))
        with pytest.raises(SocketClosed):
            await socket.send(b"late")

    async def close(socket: DirectSocket, _: trio.Nursery) -> None:
        await socket.close(4000, "")
        taken.append(socket.try_send(b"late"))
        with pytest.raises(SocketClosed):
            await socket.send(b"late")

    for serve in (leave, close):
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                stream = await open_connection(nursery, serving(serve))
                await stream.send_all(frame(_CLOSE, b"\x03\xe8"))
                received = list(server_frames(await read_slowly(stream, seconds=0)))
                await stream.aclose()
        assert [first for first, _ in received] == [0x88]
    assert taken == [0, 0]


# What comes ---------------------------------------------------------------------------------------------------------


async def test_who_takes_no_messages_is_read_no_further_and_loses_none() -> None:
    may_take = trio.Event()
    heard = Heard()
    frames_count = 2_000

    async def take_late(socket: DirectSocket, nursery: trio.Nursery) -> None:
        await may_take.wait()
        for _ in range(frames_count):
            heard.messages.append(await socket.receive_message())

    sent_count = 0

    async def send(stream: trio.SocketStream) -> None:
        nonlocal sent_count
        for number in range(frames_count):
            await stream.send_all(frame(_BINARY, number.to_bytes(2, "big") * 1_000))
            sent_count += 1

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            stream = await open_connection(nursery, serving(take_late))
            stream.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 65_536)
            nursery.start_soon(send, stream)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert sent_count < frames_count // 4  # of 4 MB
            may_take.set()
            await read_slowly(stream, seconds=0)
            await stream.aclose()
    assert heard.messages == [number.to_bytes(2, "big") * 1_000 for number in range(frames_count)]


async def test_a_packet_full_of_frames_lets_the_others_run() -> None:
    turns_count = 0
    frames_count = 20 * turns_between_checkpoints

    async def take(socket: DirectSocket, nursery: trio.Nursery) -> None:
        async def count_turns() -> None:
            nonlocal turns_count
            while True:
                turns_count += 1
                await trio.lowlevel.checkpoint()

        await socket.receive_message()
        nursery.start_soon(count_turns)
        for _ in range(frames_count - 1):
            await socket.receive_message()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            stream = await open_connection(nursery, serving(take))
            await stream.send_all(frame(_BINARY, b"x") * frames_count)
            await read_slowly(stream, seconds=0)
            await stream.aclose()
    assert turns_count >= frames_count // turns_between_checkpoints


# Which path ---------------------------------------------------------------------------------------------------------


async def test_under_tls_of_hypercorn_the_plain_path_serves(database: str, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate)
    async with open_chat(database, tmp_path, direct_path="auto") as chat, trio.open_nursery() as nursery:
        config = hypercorn_config(chat.settings)
        config.certfile, config.keyfile = str(certificate), str(key)
        stop = trio.Event()
        start = partial(listener.serve, chat.app.asgi, config, shutdown_trigger=stop.wait)
        bound: list[str] = await nursery.start(start)
        port = int(bound[0].rsplit(":", 1)[1])
        stream = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=trusting)
        upgrade = UPGRADE.replace(b"GET / ", b"GET /v1/ws ")[:-2] + b"Sec-WebSocket-Protocol: chatty.v1+json\r\n\r\n"
        received = b""
        with trio.fail_after(10):
            await stream.send_all(upgrade)
            while b'"challenge"' not in received:
                received += await stream.receive_some()
        assert received.startswith(b"HTTP/1.1 101")
        stop.set()
        await trio.aclose_forcefully(stream)


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """For localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return paths


async def talk(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        ack = await anns.send(room.id, ciphertext(), epoch=room.epoch)
        assert [event.seq for event in await bobs.messages(1)] == [ack.seq]


async def test_the_socket_goes_past_quart_unless_it_is_told_not_to(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, direct_path="auto") as chat:
        del chat.app.quart.view_functions["gateway"]
        await talk(chat)
    async with open_chat(database, tmp_path, direct_path="off") as chat:
        assert isinstance(chat.app.asgi, QuartTrio)


def pretend_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(importlib.metadata, "version", lambda _: "0.19.0")


def pretend_signature(patch: pytest.MonkeyPatch) -> None:
    send = TCPServer.protocol_send

    async def protocol_send(self: Any, event: Any, more: Any = None) -> None:
        await send(self, event)

    patch.setattr(TCPServer, "protocol_send", protocol_send)


@pytest.mark.parametrize("pretend", [pretend_version, pretend_signature])
async def test_under_another_hypercorn_it_says_so_once_and_serves_by_the_plain_path(
    pretend: Callable[[pytest.MonkeyPatch], None], database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    with structlog.testing.capture_logs() as logged:
        async with open_chat(database, tmp_path, direct_path="auto") as chat:
            assert not isinstance(chat.app.asgi, DirectGateway)
            await talk(chat)
    assert [entry["event"] for entry in logged].count("direct_path.refused") == 1
