"""A baseline: what the kernel takes to write one delivery into a socket, with nothing of ours around it.

    python -m bench.kernel WRITES      prints its port, takes SOCKETS_COUNT connections, prints `ready`, waits for a line, writes

A delivery's bytes go to one loopback socket after the other, as in a room of so many members.
"""

import secrets
import socket
import sys

from bench.people import megolm_message
from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId
from chatty.wire import frames
from chatty.wire.events import MEGOLM, Kind, TimelineEvent

SOCKETS_COUNT = 50


def delivery() -> bytes:
    """A message of 256 bytes in its frame."""
    event = TimelineEvent(
        room=RoomId("!" + "r" * 43),
        seq=Seq(1_000),
        time=1_800_000_000_000,
        kind=Kind.MESSAGE,
        sender=UserId("@bench:localhost"),
        device=DeviceId("D" + secrets.token_hex(8)),
        n=SendNumber(1_000),
        algorithm=MEGOLM,
        session_id="B" * 43,
        epoch=Seq(50),
        body=megolm_message(1, ciphertext_bytes=256),
    )
    payload = frames.encode([event], encoding="msgpack")
    return b"\x82\x7e" + len(payload).to_bytes(2, "big") + payload


def main(writes_count: int) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=SOCKETS_COUNT) as listener:
        print(listener.getsockname()[1], flush=True)
        members = [listener.accept()[0] for _ in range(SOCKETS_COUNT)]
    for member in members:
        member.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    frame = delivery()
    for _ in range(writes_count // SOCKETS_COUNT):
        for member in members:
            member.sendall(frame)
    sys.stdin.readline()


if __name__ == "__main__":
    main(int(sys.argv[1]))
