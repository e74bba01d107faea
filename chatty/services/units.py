"""UnitOfWork: state, its events and its audit row commit together or not at all. The store implements it."""

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

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


class UnitOfWork(Protocol):
    def begin(self) -> AbstractAsyncContextManager[Unit]:
        """A READ COMMITTED transaction: commits at the end of the block, rolls back on any exception.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown (the connection was lost at COMMIT).
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Unit]:
        """A read-only REPEATABLE READ transaction: everything in it is read as of one moment."""
        ...
