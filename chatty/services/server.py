"""Who this server is: its name, fixed for ever at the first start, and its generation, raised by each restore from a backup."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chatty.errors import RestoreUnfinished, ServerNameMismatch
from chatty.ids import Seq
from chatty.services.units import Transactions
from chatty.wire.frames import Generation


@dataclass(frozen=True, kw_only=True)
class ServerIdentity:
    name: str
    generation: Generation


class Server(Protocol):
    """What the first steps of a start need of the store, inside one transaction."""

    async def lock(self) -> None:
        """Only one node at a time past this point, until the transaction ends."""
        ...

    async def identity(self) -> ServerIdentity | None: ...

    async def set_identity(self, identity: ServerIdentity) -> None: ...

    async def sealed_keys(self, purpose: str) -> dict[int, bytes]:
        """Sealed keys of one purpose, by version."""
        ...

    async def add_sealed_key(self, purpose: str, *, version: int, sealed: bytes, signs_in_s: float = 0.0) -> None: ...


class ServerUnit(Protocol):
    @property
    def server(self) -> Server: ...


async def open_identity(
    unit_of_work: Transactions[ServerUnit], *, name: str, make_generation_id: Callable[[], str]
) -> ServerIdentity:
    """The stored identity; made at the first start.

    Raises: ServerNameMismatch, as the name is part of every signature; RestoreUnfinished: there are keys, and no server is named.
    """
    async with unit_of_work.begin() as unit:
        await unit.server.lock()
        found = await unit.server.identity()
        if found is None and await unit.server.sealed_keys("data_key"):
            raise RestoreUnfinished("a restore into this database broke off; empty it and restore again")
        if found is None:
            found = ServerIdentity(name=name, generation=Generation(number=Seq(1), id=make_generation_id()))
            await unit.server.set_identity(found)
    if found.name != name:
        raise ServerNameMismatch(stored=found.name, configured=name)
    return found
