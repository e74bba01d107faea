"""The people of the story, with one face: those of the Python SDK (chatty.client) and those under Node."""

from dataclasses import dataclass
from typing import Protocol

import trio

from chatty.client import Client, Message, Undecryptable, Update
from chatty.ids import RoomId, Seq, UserId
from chatty.wire.canonical import encode_base64
from tests.interop.processes import NodeProgram
from tests.interop.transcript import Failed

wait_timeout_s = 40.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """A verified place in a room's chain."""

    seq: int
    head: str
    members: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Read:
    """A message as a reader has it."""

    seq: int
    sender: str
    event_id: str


@dataclass(frozen=True, kw_only=True)
class SentMessage:
    seq: int
    event_id: str


@dataclass(frozen=True, kw_only=True)
class KeyCounts:
    """left: one-time keys of a device that the server has; claimed: those that it handed out."""

    left: int
    claimed: int
    unused_fallbacks: int = 1


class Person(Protocol):
    name: str
    user: UserId

    async def invite(self, room: RoomId, user: UserId) -> None: ...
    async def join(self, room: RoomId) -> None: ...
    async def leave(self, room: RoomId) -> None: ...
    async def send(self, room: RoomId, text: str) -> SentMessage: ...
    async def read(self, room: RoomId, text: str) -> Read:
        """Wait until a message with this text was decrypted and checked."""
        ...

    async def cannot_read(self, room: RoomId, seq: int) -> str:
        """Wait until the message at this place counts as undecryptable; why."""
        ...

    async def place(self, room: RoomId, seq: int) -> Place:
        """The verified place, when the room was read up to seq."""
        ...


class PythonPerson:
    """Somebody with the SDK. `follow` runs beside everything else."""

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.client = client
        self.user = client.user
        self.updates: list[Update] = []
        self._more = trio.Event()

    async def follow(self) -> None:
        async for update in self.client.messages():
            self.updates.append(update)
            self._more.set()
            self._more = trio.Event()

    async def invite(self, room: RoomId, user: UserId) -> None:
        await self.client.room(room).invite(user)

    async def join(self, room: RoomId) -> None:
        with trio.fail_after(wait_timeout_s):
            while room not in [invited.room for invited in self.client.invitations()]:
                await self._more.wait()
        await self.client.join(room)

    async def leave(self, room: RoomId) -> None:
        await self.client.room(room).leave()

    async def send(self, room: RoomId, text: str) -> SentMessage:
        sent = await self.client.room(room).send(text)
        return SentMessage(seq=sent.seq, event_id=sent.event_id)

    async def read(self, room: RoomId, text: str) -> Read:
        def found() -> Message | None:
            return next(
                (one for one in self.updates if isinstance(one, Message) and (one.room, one.text) == (room, text)), None
            )

        with trio.move_on_after(wait_timeout_s):
            while (message := found()) is None:
                await self._more.wait()
            return Read(seq=message.seq, sender=message.sender, event_id=message.event_id)
        raise Failed(f"{self.name} did not read “{text}”; has {self.updates}")

    async def cannot_read(self, room: RoomId, seq: int) -> str:
        def found() -> Undecryptable | None:
            missing = [one for one in self.updates if isinstance(one, Undecryptable)]
            return next((one for one in missing if (one.room, one.seq) == (room, seq)), None)

        with trio.move_on_after(wait_timeout_s):
            while (update := found()) is None:
                await self._more.wait()
            return update.reason.value
        raise Failed(f"{self.name} has no word about {seq}; has {self.updates}")

    async def place(self, room: RoomId, seq: int) -> Place:
        opened = self.client.room(room)
        await opened.read_up_to(Seq(seq))
        position = self.client._engine.book.get(room).position
        return Place(seq=position.seq, head=encode_base64(position.head), members=frozenset(opened.members))

    def holds_key(self, room: RoomId, session_id: str) -> bool:
        """Is this Megolm session in the SDK's own store?"""
        return self.client._engine.megolm.owner(room, session_id) is not None


class NodePerson:
    """Somebody under Node."""

    def __init__(self, name: str, node: NodeProgram, user: str, device: str) -> None:
        self.name = name
        self.user = UserId(user)
        self.device = device
        self._node = node
        self.last_session = ""
        self.last_given: list[str] = []
        self.last_claimed: list[str] = []

    async def invite(self, room: RoomId, user: UserId) -> None:
        await self._node.ask(self.name, "invite", room, user)

    async def join(self, room: RoomId) -> None:
        await self._node.ask(self.name, "join", room)

    async def leave(self, room: RoomId) -> None:
        await self._node.ask(self.name, "leave", room)

    async def create_direct(self, other: UserId) -> RoomId:
        return RoomId(await self._node.ask(self.name, "create", {"other": other}))

    async def send(self, room: RoomId, text: str) -> SentMessage:
        """Notes the Megolm session, the devices that were given its key for this message, and those a key was claimed of."""
        sent = await self._node.ask(self.name, "send", room, text)
        self.last_session = sent["session_id"]
        self.last_given, self.last_claimed = sent["given_to"], sent["claimed"]
        return SentMessage(seq=sent["seq"], event_id=sent["event_id"])

    async def read(self, room: RoomId, text: str) -> Read:
        read = await self._node.ask(self.name, "read", room, text)
        return Read(seq=read["seq"], sender=read["sender"], event_id=read["event_id"])

    async def session_of(self, room: RoomId, text: str) -> str:
        """The Megolm session that a message was encrypted with."""
        return str((await self._node.ask(self.name, "read", room, text))["session_id"])

    async def cannot_read(self, room: RoomId, seq: int) -> str:
        return str((await self._node.ask(self.name, "unreadable", room, seq))["reason"])

    async def place(self, room: RoomId, seq: int) -> Place:
        place = await self._node.ask(self.name, "place", room, seq)
        return Place(seq=place["seq"], head=place["head"], members=frozenset(place["members"]))

    async def checkpoint(self, room: RoomId) -> str:
        """The head that the server signed, compared with the own one there."""
        return str((await self._node.ask(self.name, "checkpoint", room))["head"])

    async def key_counts(self) -> KeyCounts:
        counts = await self._node.ask(self.name, "keysClaimed")
        return KeyCounts(left=counts["left"], claimed=counts["claimed"], unused_fallbacks=len(counts["unused"]))

    async def connect(self) -> None:
        await self._node.ask(self.name, "connect")

    async def disconnect(self) -> None:
        await self._node.ask(self.name, "disconnect")

    async def keys_received(self) -> int:
        """Rows of the device mailbox that ever came."""
        return int(await self._node.ask(self.name, "mailboxRows"))
