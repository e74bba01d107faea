"""UnitOfWork: state, its events and its audit row commit together or not at all. The store implements it.

A feature's file that steps over a port of its own names what it needs of a unit and takes `Transactions[ItsUnit]`: so this file
imports no feature, and no feature knows the others'. The store's unit has all attributes and fits each.
"""

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from chatty.services.requests import Requests


class Audit(Protocol):
    async def record(self, *, actor: str, device: str, action: str, object_: str, detail: dict[str, Any]) -> None:
        """One row of the audit log, in the acting transaction. Never a secret in `detail`."""
        ...


class Unit(Protocol):
    """One transaction and the features' stores on its connection. Each feature adds its own attribute here."""

    @property
    def audit(self) -> Audit: ...
    @property
    def requests(self) -> Requests: ...


UnitT_co = TypeVar("UnitT_co", covariant=True)


class Transactions(Protocol[UnitT_co]):
    def begin(self) -> AbstractAsyncContextManager[UnitT_co]:
        """A READ COMMITTED transaction: commits at the end of the block, rolls back on any exception.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown (the connection was lost at COMMIT).
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[UnitT_co]:
        """A read-only REPEATABLE READ transaction: everything in it is read as of one moment."""
        ...


class UnitOfWork(Transactions[Unit], Protocol):
    """Of what every unit has."""
