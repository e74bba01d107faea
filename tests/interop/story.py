"""Four people in one room: Ann and Ben with the Python SDK, Nora and Finn under Node. What each step shows is printed.

The room's history is open to later joiners (`shared`), so the server hands them the ciphertexts from before; that they
cannot read them is the keys' doing alone.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from chatty.client import open_client
from chatty.ids import RoomId
from chatty.wire.events import RoomRole
from tests.interop.people import KeyCounts, NodePerson, Person, PythonPerson, SentMessage
from tests.interop.processes import NodeProgram
from tests.interop.transcript import Transcript

PASSWORD = "a passphrase with an ä that both must normalise"  # decomposed here, NFC before it is hashed


class Story:
    def __init__(self, transcript: Transcript, node: NodeProgram) -> None:
        self.transcript = transcript
        self._node = node
        self._room = RoomId("")
        self._said: list[SentMessage] = []
        self._joined_at: dict[str, int] = {}

    async def tell(self, origin: str, folder: Path) -> None:
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            await self._vectors()
            await self._register(origin, folder, stack, nursery)
            await self._both_ways()
            await self._python_joins()
            await self._node_joins()
            await self._second_device(origin, folder, stack, nursery)
            await self._python_leaves()
            await self._node_leaves()
            await self._direct_room()
            await self._resume()
            await self._before_the_join()
            await self._one_history()
            nursery.cancel_scope.cancel()
        self.transcript.end()

    # Chapters

    async def _vectors(self) -> None:
        self.transcript.chapter("The client under Node computes what tests/vectors says")
        count = await self._node.ask("", "vectors")
        self.transcript.check(f"{count} values: canonical JSON, signatures, chain, digests, password", count > 50)

    async def _register(self, origin: str, folder: Path, stack: AsyncExitStack, nursery: trio.Nursery) -> None:
        self.transcript.chapter("Ann and Ben (Python, vodozemac), Nora and Finn (Node, OlmMachine) register")
        self.ann, self.ben = [await self._python(name, origin, folder, stack, nursery) for name in ("ann", "ben")]
        self.nora, self.finn = [await self._under_node(name) for name in ("nora", "finn")]
        counts = await self.nora.key_counts()
        self.transcript.equal(
            "Nora published 50 one-time keys and a fallback key", counts, KeyCounts(left=50, claimed=0)
        )

    async def _both_ways(self) -> None:
        self.transcript.chapter("Ann makes a room, Nora joins with her signed invitation")
        self._room = (await self.ann.client.create_room(history="shared", invite_role=RoomRole.MEMBER)).id
        await self._bring_in(self.nora, by=self.ann)
        await self._say(self.ann, "Hello Nora, this is Megolm by vodozemac.", to=[self.nora])
        counts = await self.nora.key_counts()
        self.transcript.equal("to say so, Ann claimed a one-time key of Nora's", counts.claimed, 1)
        self.transcript.equal("and no fallback key", counts.unused_fallbacks, 1)
        await self._say(self.nora, "Hello Ann, this is OlmMachine’s.", to=[self.ann])
        self.transcript.equal("Nora needed no claim: Ann's Olm session goes both ways", self.nora.last_claimed, [])

    async def _python_joins(self) -> None:
        self.transcript.chapter("Ben joins: Nora invites, Python against Node's signature")
        await self._bring_in(self.ben, by=self.nora)
        before = self.nora.last_session
        await self._say(self.nora, "Welcome Ben. You read from here on.", to=[self.ann, self.ben])
        device = self.ben.client.device
        self.transcript.equal("Nora claimed a one-time key of Ben's", self.nora.last_claimed, [device])
        self.transcript.equal("and gave the key to Ben's device alone", self.nora.last_given, [device])
        self.transcript.equal("of the session that Ann has already", self.nora.last_session, before)
        await self._say(self.ben, "Thank you both.", to=[self.ann, self.nora])

    async def _node_joins(self) -> None:
        self.transcript.chapter("Finn joins: Ann invites, Node against Python's signature")
        await self._bring_in(self.finn, by=self.ann)
        text = "Welcome Finn. You read from here on."
        before = await self.nora.session_of(self._room, "Hello Nora, this is Megolm by vodozemac.")
        await self._say(self.ann, text, to=[self.ben, self.nora, self.finn])
        counts = await self.finn.key_counts()
        self.transcript.equal("Ann claimed a one-time key of Finn's", counts.claimed, 1)
        session = await self.finn.session_of(self._room, text)
        self.transcript.equal("and gave him the session that the others have", session, before)
        await self._say(self.finn, "Glad to be here.", to=[self.ann, self.ben, self.nora])
        devices = {self.ben.client.device, self.nora.device}
        self.transcript.equal("Finn claimed keys of both kinds of client", set(self.finn.last_claimed), devices)

    async def _second_device(self, origin: str, folder: Path, stack: AsyncExitStack, nursery: trio.Nursery) -> None:
        self.transcript.chapter("Ann signs in with a second device, and revokes it")
        store = folder / "ann-phone"
        client = await stack.enter_async_context(open_client(origin, store, store_key=b"p" * 32))
        await client.login(self.ann.user, PASSWORD)
        phone = PythonPerson("her phone", client)
        nursery.start_soon(phone.follow)
        before = self.nora.last_session
        await self._say(self.nora, "For both of your devices, Ann.", to=[self.ann, self.ben, self.finn, phone])
        newcomers = {self.finn.device, client.device}
        self.transcript.equal(
            "Nora gave the key to it and to Finn, who joined meanwhile", set(self.nora.last_given), newcomers
        )
        self.transcript.equal("of the session that the others have", self.nora.last_session, before)
        await self.ann.client.revoke_device(client.device)
        await self._say(self.nora, "Not for the phone.", to=[self.ann, self.ben, self.finn])
        devices = {self.ann.client.device, self.ben.client.device, self.finn.device}
        self.transcript.check("Nora made a new Megolm session", self.nora.last_session != before)
        self.transcript.equal(
            "and gave it to everybody's devices, not to the phone", set(self.nora.last_given), devices
        )

    async def _python_leaves(self) -> None:
        self.transcript.chapter("Ben leaves")
        await self.ben.leave(self._room)
        sessions = [
            self.nora.last_session,
            await self.finn.session_of(self._room, "Welcome Finn. You read from here on."),
        ]
        held = [self.ben.holds_key(self._room, session) for session in sessions]
        self.transcript.equal("Ben's store holds Nora's and Ann's Megolm sessions", held, [True, True])
        await self._say(self.nora, "Ben cannot read this.", to=[self.ann, self.finn])
        devices = {self.ann.client.device, self.finn.device}
        self.transcript.check("Nora made a new Megolm session", self.nora.last_session not in sessions)
        self.transcript.equal("and gave it to Ann and Finn, not to Ben", set(self.nora.last_given), devices)
        text = "Nor this."
        await self._say(self.ann, text, to=[self.nora, self.finn])
        session = await self.nora.session_of(self._room, text)
        self.transcript.check("Ann made a new one too", session not in sessions)
        self._withheld_from_ben = [self.nora.last_session, session]

    async def _node_leaves(self) -> None:
        self.transcript.chapter("Finn leaves, by an event that Node signed")
        await self.finn.leave(self._room)
        rows = await self.finn.keys_received()
        before = self._withheld_from_ben[1]
        text = "Finn cannot read this."
        await self._say(self.ann, text, to=[self.nora])
        session = await self.nora.session_of(self._room, text)
        self.transcript.check("Ann made a new Megolm session", session != before)
        place = await self.ann.place(self._room, 1)
        self.transcript.equal("left are Ann and Nora", place.members, frozenset({self.ann.user, self.nora.user}))
        await self.finn.disconnect()
        await self.finn.connect()
        came = await self.finn.keys_received()
        self.transcript.equal("Finn's mailbox, read to its end, got no key", came, rows)
        last = await self.finn.place(self._room, 1)
        self.transcript.check(
            "and his room ends with his leave", self.finn.user not in last.members and last.seq < place.seq
        )

    async def _direct_room(self) -> None:
        self.transcript.chapter("Nora makes a direct room with Ben")
        direct = await self.nora.create_direct(self.ben.user)
        await self._say(self.nora, "Between us, Ben.", to=[self.ben], room=direct)
        await self._say(self.ben, "Yes, Nora?", to=[self.nora], room=direct)
        # Mailbox rows come in order: whatever was sent to Ben before this key, he has taken by now.
        held = [self.ben.holds_key(self._room, session) for session in self._withheld_from_ben]
        self.transcript.equal("Ben has read his mailbox up to this key: none of the room he left", held, [False, False])

    async def _resume(self) -> None:
        self.transcript.chapter("Nora goes offline, and resumes from her cursors")
        await self.nora.disconnect()
        for text in ("One.", "Two.", "Three."):
            await self.ann.send(self._room, text)
            self.transcript.said("Ann", text)
        await self.nora.connect()
        seqs = [(await self.nora.read(self._room, text)).seq for text in ("One.", "Two.", "Three.")]
        self.transcript.equal("Nora reads what came meanwhile, in order", seqs, list(range(seqs[0], seqs[0] + 3)))
        counts = await self.nora.key_counts()
        self.transcript.equal("her used one-time keys were replaced", counts.left, 50)
        await self._say(self.nora, "Back again.", to=[self.ann])

    async def _before_the_join(self) -> None:
        self.transcript.chapter("What the joiners were handed from before their time")
        readers: list[Person] = [self.ben, self.finn]
        for reader in readers:
            seqs = [sent.seq for sent in self._said if sent.seq < self._joined_at[reader.user]]
            reasons = {await reader.cannot_read(self._room, seq) for seq in seqs}
            what = f"{reader.name.capitalize()} has {len(seqs)} ciphertexts from before the join and no key to any"
            self.transcript.equal(what, reasons, {"no_key_yet"})

    async def _one_history(self) -> None:
        self.transcript.chapter("One history for all")
        last = await self._say(self.ann, "The end.", to=[self.nora])
        places = [await person.place(self._room, last.seq) for person in (self.ann, self.nora)]
        self.transcript.equal("vodozemac's Ann and OlmMachine's Nora computed the same head", places[0], places[1])
        head = await self.nora.checkpoint(self._room)
        self.transcript.equal("and the server signed it, verified under Node", head, places[0].head)

    # Steps

    async def _python(
        self, name: str, origin: str, folder: Path, stack: AsyncExitStack, nursery: trio.Nursery
    ) -> PythonPerson:
        client = await stack.enter_async_context(open_client(origin, folder / name, store_key=name.encode().ljust(32)))
        await client.register(name, PASSWORD)
        person = PythonPerson(name, client)
        nursery.start_soon(person.follow)
        self.transcript.check(f"{name.capitalize()} is {person.user}, device {client.device}", client.is_signed_in)
        return person

    async def _under_node(self, name: str) -> NodePerson:
        registered = await self._node.ask(name, "register", name, PASSWORD)
        person = NodePerson(name, self._node, registered["user"], registered["device"])
        self.transcript.check(f"{name.capitalize()} is {person.user}, device {person.device}", bool(person.user))
        return person

    async def _bring_in(self, person: PythonPerson | NodePerson, *, by: PythonPerson | NodePerson) -> None:
        await by.invite(self._room, person.user)
        await person.join(self._room)
        own = await person.place(self._room, 1)
        self._joined_at[person.user] = own.seq
        place = await by.place(self._room, own.seq)
        names = by.name.capitalize(), person.name.capitalize()
        self.transcript.check(f"{names[1]} is a member, in {names[1]}'s eyes", person.user in own.members)
        self.transcript.equal(f"and {names[0]} has verified the same chain", place, own)

    async def _say(
        self, sender: PythonPerson | NodePerson, text: str, *, to: Sequence[Person], room: RoomId | None = None
    ) -> SentMessage:
        where = room or self._room
        sent = await sender.send(where, text)
        self.transcript.said(sender.name.capitalize(), text)
        expected = (sent.seq, sender.user, sent.event_id)
        for reader in to:
            read = await reader.read(where, text)
            what = f"{reader.name.capitalize()} reads it as event {sent.seq} of {sender.user}"
            self.transcript.equal(what, (read.seq, read.sender, read.event_id), expected)
        if where == self._room:
            self._said.append(sent)
        return sent
