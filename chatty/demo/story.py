"""What happens in the demo, scene by scene, and what each device then has read. Played against real parts; nothing is staged but
the words.

    1  two people come, with three devices          3  one device is switched off, misses a group, and catches up
    2  a direct room, one message each way          4  one device is killed in the middle of a send, and goes on
"""

import secrets
from collections.abc import Sequence

import trio

from chatty.demo import orders
from chatty.demo.audit import audit
from chatty.demo.devices import DemoFailed, Device
from chatty.demo.needles import Secret
from chatty.demo.report import DeviceSeen, Report, ServerSeen, Stored, Told
from chatty.demo.stage import Stage
from chatty.demo.transcript import Transcript
from chatty.ids import RoomId, UserId

invitation = 'Zoë turns 40 on Saturday! Surprise party at the café "Blaue Brücke"?'
promise = "Yes!! I'll tell her it's \"just dinner\" – she mustn't suspect anything 🤫"
cake = 'The cake says "Für Zoë", and at the door you whisper: Käsekuchen.'
music = "I'll bring the piñata & my naïve little brother's accordion."
speech = "My speech, forty toasts:\n" + "\n".join(
    f'{year}. To the year {1984 + year}, when Zoë said "naïveté is a superpower" – and meant it! 🥂'
    for year in range(1, 41)
)
slip = 'Help – I nearly told her "see you at the café" … what do I say now?!'
question = "Ben? You've gone quiet. Is it your battery – or Zoë?"
relief = "The battery! Now it's charged, and she doesn't know a thing. À samedi 🎉"

cast = (("Anna", "laptop"), ("Ben", "phone"), ("Ben", "tablet"))


class Story:
    """devices: as in `cast`."""

    def __init__(self, stage: Stage, devices: Sequence[Device], transcript: Transcript) -> None:
        self._stage = stage
        self._devices = devices
        self._laptop, self._phone, self._tablet = devices
        self._transcript = transcript
        self._rooms: dict[str, RoomId] = {}
        self._caught_up_count = 0
        self._passwords = {owner: f'{owner}: "Größe" & {secrets.token_urlsafe(9)}' for owner in ("Anna", "Ben")}
        self._ciphertext = b""

    async def play(self) -> Report:
        began = trio.current_time()
        self._transcript.begin(self._stage)
        await self._come()
        await self._talk()
        await self._miss_and_catch_up()
        await self._be_killed_and_resume()
        self._check_all_read_the_same()
        told = [await self._told(line) for line in self._laptop.lines]
        self._transcript.summary(len(told), devices=self._devices, is_own=self._stage.storage is not None)
        search = await audit(
            self._stage,
            await self._secrets(),
            ciphertext=self._ciphertext,
            stores=[device.store for device in self._devices],
        )
        self._transcript.search(search)
        info = self._stage.info
        return Report(
            is_clean=search.is_clean,
            server=ServerSeen(
                origin=self._stage.origin,
                server_name=info.server_name,
                version=info.version,
                is_own=self._stage.storage is not None,
            ),
            devices=[DeviceSeen(name=one.name, user=one.user, device=one.device) for one in self._devices],
            messages=told,
            caught_up_count=self._caught_up_count,
            killed_device=self._phone.name,
            search=search,
            duration_s=round(trio.current_time() - began, 3),
        )

    async def _come(self) -> None:
        # On somebody's running server the plain names may be taken.
        mark = "" if self._stage.storage is not None else f"-{secrets.token_hex(3)}"
        for device in (self._laptop, self._phone):
            password, name = self._passwords[device.owner], f"{device.owner.lower()}{mark}"
            register = orders.Register(name=name, password=password, device_name=device.kind)
            me = await device.ask(register, orders.Me)
            device.user, device.device = me.user, me.device
        tablet, password = self._tablet, self._passwords["Ben"]
        sign_in = orders.SignIn(user=self._phone.user, password=password, device_name=tablet.kind)
        me = await tablet.ask(sign_in, orders.Me)
        tablet.user, tablet.device = me.user, me.device
        storage = self._stage.storage
        accounts = [await storage.account(user) for user in self._users()] if storage is not None else []
        self._transcript.people(self._devices, accounts)

    def _users(self) -> list[UserId]:
        return [self._laptop.user, self._phone.user]

    async def _talk(self) -> None:
        opened = await self._laptop.ask(orders.OpenDirect(user=self._phone.user), orders.Where)
        self._rooms["direct"] = opened.room
        await self._say(self._laptop, "direct", invitation)
        await self._all_listen(self._devices, [invitation])
        await self._say(self._phone, "direct", promise)
        await self._all_listen(self._devices, [promise])
        self._transcript.talk([await self._told_text(text) for text in (invitation, promise)])

    async def _miss_and_catch_up(self) -> None:
        await self._tablet.close()
        opened = await self._laptop.ask(orders.OpenGroup(invite=self._phone.user), orders.Where)
        self._rooms["group"] = opened.room
        await self._phone.ask(orders.Join(room=opened.room), orders.Done)
        said = [cake, music, speech]
        for device, text in zip((self._laptop, self._phone, self._laptop), said, strict=True):
            await self._say(device, "group", text)
        online = (self._laptop, self._phone)
        await self._all_listen(online, said)
        self._transcript.missed([await self._told_text(text) for text in said], self._tablet)
        await self._tablet.start()
        new = await self._tablet.listen(said)
        self._caught_up_count = len(new)
        self._transcript.caught_up(self._tablet, new)

    async def _be_killed_and_resume(self) -> None:
        phone = self._phone
        # No answer can come while the server stands still, so the phone dies without knowing what became of its message.
        with self._stage.standing_still():
            await phone.ask(orders.Begin(room=self._rooms["direct"], text=slip), orders.Done)
            await phone.kill()
        await self._say(self._laptop, "direct", question)
        self._transcript.killed(phone, slip, is_unanswered=self._stage.process is not None)
        await phone.start()
        await self._all_listen(self._devices, [slip, question])
        await self._say(phone, "direct", relief)
        await self._all_listen(self._devices, [relief])
        texts = [line.text for line in self._laptop.lines if line.text in (slip, question, relief)]
        self._transcript.resumed([await self._told_text(text) for text in texts], phone)

    async def _say(self, device: Device, room: str, text: str) -> None:
        await device.ask(orders.Say(room=self._rooms[room], text=text), orders.Done)

    async def _all_listen(self, devices: Sequence[Device], texts: Sequence[str]) -> None:
        async with trio.open_nursery() as nursery:
            for device in devices:
                nursery.start_soon(device.listen, texts)

    async def _told_text(self, text: str) -> Told:
        return await self._told(next(line for line in self._laptop.lines if line.text == text))

    async def _told(self, line: orders.Line) -> Told:
        """A message, who has read it, and what is stored of it."""
        storage, stored = self._stage.storage, None
        if storage is not None:
            event = await storage.event(line.room, line.seq)
            self._ciphertext = self._ciphertext or event.body
            stored = Stored(
                sender=event.sender,
                device=event.device,
                algorithm=event.algorithm,
                body_bytes=len(event.body),
                beginning=event.body[:48].hex(),
            )
        sender = next(device for device in self._devices if device.device == line.device)
        return Told(
            room=next(name for name, room in self._rooms.items() if room == line.room),
            seq=line.seq,
            sender=sender.name,
            text=line.text,
            read_by=[one.name for one in self._devices if one is not sender and line in one.lines],
            stored=stored,
        )

    def _check_all_read_the_same(self) -> None:
        """Each device: each message once, each room in the one order. Raises: DemoFailed."""
        expected = {invitation, promise, cake, music, speech, slip, question, relief}
        orders_read = [sorted(device.lines, key=lambda line: (line.room, line.seq)) for device in self._devices]
        for device, lines in zip(self._devices, orders_read, strict=True):
            if sorted(line.text for line in lines) != sorted(expected):
                raise DemoFailed(f"{device.name} read {len(lines)} messages, not each of {len(expected)} once")
            in_order = [[line for line in device.lines if line.room == room] for room in sorted(self._rooms.values())]
            if lines != orders_read[0] or lines != [line for room in in_order for line in room]:
                raise DemoFailed(f"{device.name} read the messages in another order")

    async def _secrets(self) -> list[Secret]:
        """Every message, password and key: what the devices know and nobody else may."""
        found = [Secret(name=f"the message “{line.text[:18]}…”", value=line.text) for line in self._laptop.lines]
        found += [Secret(name=f"{owner}'s password", value=password) for owner, password in self._passwords.items()]
        for device in self._devices:
            if self._stage.storage is None:
                await device.ask(orders.SignOut(), orders.Done)
            kept = await device.ask(orders.Finish(), orders.Secrets)
            await device.close()
            found.append(Secret(name=f"{device.name}: key of its store", value=device.store_key))
            found += [Secret(name=f"{device.name}: {name}", value=value) for name, value in kept.keys + kept.tokens]
        return found
