"""The directory: rooms that everybody of this server may join, by the public titles that their owners gave them.

It is the server's word. Whoever joins reads the room's signed events and finds there whether it is listed, and under which title.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from chatty.services.room_links import RoomDirectory
from chatty.wire.rooms import Directory


class DirectoryUnit(Protocol):
    @property
    def directory(self) -> RoomDirectory: ...


class DirectoryUnits(Protocol):
    def autocommit(self) -> AbstractAsyncContextManager[DirectoryUnit]: ...


class DirectorySteps:
    def __init__(self, units: DirectoryUnits) -> None:
        self._units = units

    async def page(self, *, after: str, title: str, count_max: int) -> Directory:
        """Listed rooms after this room id whose titles hold this text."""
        async with self._units.autocommit() as unit:
            found = await unit.directory.page(after=after, title=title, count_max=count_max)
        return Directory(rooms=found, next_after=found[-1].room if len(found) == count_max else "")
