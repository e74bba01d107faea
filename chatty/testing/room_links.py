"""Invitation links and listings of rooms, in memory."""

from dataclasses import replace

from chatty.ids import RoomNumber
from chatty.services.room_links import RoomDirectory, RoomLinks
from chatty.testing.tables import Tables
from chatty.testing.transactions import Transaction
from chatty.wire.room_links import Link
from chatty.wire.rooms import ListedRoom


class MemoryRoomLinks(RoomLinks):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def has(self, room: RoomNumber, key: str) -> bool:
        return (room, key) in (await self._transaction.read()).links

    async def put(self, room: RoomNumber, key: str, link: Link) -> None:
        await self._transaction.write(lambda tables: tables.links.update({(room, key): link}))

    async def open_count(self, room: RoomNumber, *, at_ms: int) -> int:
        links = (await self._transaction.read()).links
        return sum(of == room and link.is_open(at_ms=at_ms) for (of, _), link in links.items())


class MemoryRoomDirectory(RoomDirectory):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def is_listed(self, room: RoomNumber) -> bool:
        found = (await self._transaction.read()).rooms.get(room)
        return found is not None and bool(found.public_title)

    async def set_title(self, room: RoomNumber, title: str) -> None:
        def change(tables: Tables) -> None:
            tables.rooms[room] = replace(tables.rooms[room], public_title=title)

        await self._transaction.write(change)

    async def page(self, *, after: str, title: str, count_max: int) -> list[ListedRoom]:
        tables = await self._transaction.read()
        rooms = sorted(tables.rooms.values(), key=lambda one: one.room)
        found = [
            ListedRoom(room=one.room, title=one.public_title, members_count=len(list(tables.joined(one.number))))
            for one in rooms
            if one.room > after and one.public_title and title.lower() in one.public_title.lower()
        ]
        return [one for one in found if one.members_count][:count_max]
