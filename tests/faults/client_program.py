"""The SDK's client as a process to be killed: `python -m tests.faults.client_program CALL` (JSON).

It opens a store that is signed in, sends to its rooms as fast as acks return and reads all that comes. Each ack and each
message is a line on stdout, told before the next is asked for. With `dies_at_send` it kills itself with SIGKILL when the frame of
that send is due: it stands in the store and never left. When stdin ends it sends no more, waits until all its sends have their
outcome, and ends.
"""

import itertools
import os
import signal
import sys
from typing import Any

import msgspec
import trio
from msgspec import Struct

from chatty.client import (
    Client,
    Lie,
    Message,
    Room,
    RoomFrozen,
    ServerLied,
    SignedOut,
    Undecryptable,
    engine,
    open_client,
)
from chatty.client.connection import Answer, Link, MakeFrame
from chatty.client.outbox import open_sends
from chatty.wire.frames import Send

window_count = 3  # sends under way in each room


class Call(Struct, frozen=True, kw_only=True):
    """prefix: of every text, so that no two runs send the same."""

    origin: str
    store: str
    key: bytes
    prefix: str
    dies_at_send: int | None = None


class Line(Struct, frozen=True, kw_only=True):
    """One line of stdout. what: `acked` or `read`, with a place in a room; `fault`, with what is wrong in `text`."""

    what: str
    room: str = ""
    seq: int = 0
    text: str = ""


class DyingLink(Link):
    """Dies when the bytes of a send are due on the socket, the n-th time."""

    left_count = 0

    async def request(self, make: MakeFrame) -> Answer:
        def make_or_die(id_: int) -> Any:
            frame = make(id_)
            if isinstance(frame, Send):
                DyingLink.left_count -= 1
                if DyingLink.left_count == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return frame

        return await super().request(make_or_die)


def tell(**line: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(Line(**line)) + b"\n")
    sys.stdout.buffer.flush()


async def send(room: Room, texts: "itertools.count[int]", prefix: str, stopping: trio.Event) -> None:
    while not stopping.is_set():
        text = f"{prefix}/{next(texts)}"
        try:
            sent = await room.send(text)
        except (RoomFrozen, Lie) as error:
            tell(what="fault", room=room.id, text=str(error))
            return
        tell(what="acked", room=room.id, seq=sent.seq, text=text)


async def read(client: Client) -> None:
    async for update in client.messages():
        match update:
            case Message(room=room, seq=seq, text=text):
                tell(what="read", room=room, seq=seq, text=text)
            case Undecryptable() | ServerLied() | SignedOut():
                tell(what="fault", text=repr(update))
            case _:
                pass


async def run(call: Call) -> None:
    stopping, texts = trio.Event(), itertools.count(1)
    async with open_client(call.origin, call.store, store_key=call.key) as client, trio.open_nursery() as reading:
        reading.start_soon(read, client)
        async with trio.open_nursery() as sending:
            for room in client.rooms() * window_count:
                sending.start_soon(send, room, texts, call.prefix, stopping)
            await trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())).receive_some()
            stopping.set()
        while open_sends(client._store):  # noqa: ASYNC110  # those of earlier runs ring no bell here
            await trio.sleep(0.02)
        reading.cancel_scope.cancel()


def command(call: Call) -> list[str]:
    """What runs it, from the project's directory."""
    return [sys.executable, "-m", "tests.faults.client_program", msgspec.json.encode(call).decode()]


def main(call: Call) -> None:
    if call.dies_at_send is not None:
        DyingLink.left_count = call.dies_at_send
        engine.__dict__["Link"] = DyingLink
    trio.run(run, call)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Call))
