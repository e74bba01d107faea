"""One device of the demo, as a process of its own: `python -m chatty.demo.device`, told by lines on stdin.

It is the SDK and nothing else, so that killing the process kills a real client: what it knows afterwards is what its sealed store
held. stdin's end ends it. The parent alone hears a terminal's Ctrl-C (this process is in a session of its own).
"""

import os
from pathlib import Path
from typing import assert_never

import msgspec
import trio
from trio.lowlevel import FdStream

from chatty.client import (
    Client,
    ClientError,
    Invited,
    Lie,
    Message,
    ServerLied,
    SignedOut,
    Undecryptable,
    open_client,
)
from chatty.client.secret_keys import secret_keys
from chatty.client.store import LocalStore
from chatty.demo import orders
from chatty.errors import ChattyError
from chatty.ids import RoomId

poll_interval_s = 0.005


class Unexpected(ClientError):
    """The client was told something that an honest server never causes."""


class Device:
    def __init__(self, client: Client, background: trio.Nursery) -> None:
        self._client = client
        self._background = background

    async def do(self, order: orders.AnyOrder) -> msgspec.Struct:
        client = self._client
        match order:
            case orders.Register(name=name, password=password, device_name=device_name):
                await client.register(name, password, device_name=device_name)
                return await self._me()
            case orders.SignIn(user=user, password=password, device_name=device_name):
                await client.login(user, password, device_name=device_name)
                return await self._me()
            case orders.GoOnline():
                return await self._me()
            case orders.OpenDirect(user=user):
                return orders.Where(room=(await client.direct(user)).id)
            case orders.OpenGroup(invite=user):
                return orders.Where(room=(await client.create_room(invite=[user])).id)
            case orders.Join(room=room):
                await self._join(room)
            case orders.Say(room=room, text=text):
                await client.room(room).send(text)
            case orders.Begin(room=room, text=text):
                await self._begin(room, text)
            case orders.Listen(until=until):
                return await self._listen(set(until))
            case orders.SignOut():
                await client.logout()
            case orders.Open() | orders.Finish():
                raise Unexpected("out of order")
            case _:
                assert_never(order)
        return orders.Done()

    async def _me(self) -> orders.Me:
        await self._client.wait_online()
        return orders.Me(user=self._client.user, device=self._client.device)

    async def _join(self, room: RoomId) -> None:
        if all(one.room != room for one in self._client.invitations()):
            async for update in self._client.messages():
                if isinstance(update, Invited) and update.room == room:
                    break
        await self._client.join(room)

    async def _begin(self, room: RoomId, text: str) -> None:
        """Until the message is on this device's disk; a server that does not stand still may be faster than the look."""
        sent = trio.Event()

        async def send() -> None:
            await self._client.room(room).send(text)
            sent.set()

        self._background.start_soon(send)
        while not sent.is_set() and all(one.text != text for one in self._client.unsent()):  # noqa: ASYNC110  # no event
            await trio.sleep(poll_interval_s)

    async def _listen(self, missing: set[str]) -> orders.Heard:
        lines: list[orders.Line] = []
        if not missing:
            return orders.Heard(lines=lines)
        async for update in self._client.messages():
            match update:
                case Message():
                    lines.append(as_line(update))
                    missing.discard(update.text)
                    if not missing:
                        break
                case Undecryptable() | ServerLied() | SignedOut():
                    raise Unexpected(str(update))
                case _:
                    pass  # invitations and changes of membership
        return orders.Heard(lines=lines)


def as_line(message: Message) -> orders.Line:
    return orders.Line(
        room=message.room,
        seq=message.seq,
        event=message.event_id,
        sender=message.sender,
        device=message.device,
        text=message.text,
    )


def failure(error: ChattyError | ClientError | Lie) -> orders.Failed:
    if isinstance(error, ChattyError):
        return orders.Failed(code=error.code, detail=str(error), exit_code=error.exit_code)
    return orders.Failed(code="demo_failed", detail=f"{type(error).__name__}: {error}", exit_code=1)


def read_secrets(store: Path, store_key: bytes) -> orders.Secrets:
    opened = LocalStore(store, key=store_key)
    try:
        found = secret_keys(opened)
    finally:
        opened.close()
    return orders.Secrets(
        keys=[(one.name, one.value) for one in found if isinstance(one.value, bytes)],
        tokens=[(one.name, one.value) for one in found if isinstance(one.value, str)],
    )


async def obey(client: Client, lines: orders.Lines, answers: FdStream) -> bool:
    """Do one order after the other. Returns: whether it ended with Finish; else the parent has gone."""
    async with trio.open_nursery() as background:
        device = Device(client, background)
        while line := await lines.read():
            order = msgspec.json.decode(line, type=orders.AnyOrder)
            if isinstance(order, orders.Finish):
                background.cancel_scope.cancel()
                return True
            try:
                answer = orders.Answer(done=msgspec.Raw(msgspec.json.encode(await device.do(order))))
            except (ChattyError, ClientError, Lie) as error:
                answer = orders.Answer(failed=failure(error))
            await send(answers, answer)
        background.cancel_scope.cancel()
    return False


async def send(answers: FdStream, answer: orders.Answer) -> None:
    await answers.send_all(msgspec.json.encode(answer) + b"\n")


async def main() -> None:
    lines, answers = orders.Lines(FdStream(os.dup(0))), FdStream(os.dup(1))
    opening = msgspec.json.decode(await lines.read(), type=orders.Open)
    store = Path(opening.store)
    async with open_client(opening.origin, store, store_key=opening.store_key) as client:
        is_finished = await obey(client, lines, answers)
    if is_finished:
        secrets = read_secrets(store, opening.store_key)
        await send(answers, orders.Answer(done=msgspec.Raw(msgspec.json.encode(secrets))))


if __name__ == "__main__":
    trio.run(main)
