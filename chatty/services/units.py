"""UnitOfWork: state, its events and its audit row commit together or not at all. The store implements it.

A feature's file that steps over a port of its own names what it needs of a unit and takes `Transactions[ItsUnit]`: so this file
imports no feature, and no feature knows the others'. The store's unit has all attributes and fits each.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from chatty.services.requests import Requests


class Audit(Protocol):
    async def record(
        self,
        *,
        actor: str,
        device: str,
        action: str,
        object_: str,
        detail: Mapping[str, Any] | None = None,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        family: str | None = None,
    ) -> None:
        """One row of the audit log, in the acting transaction, for ever: no secret, and no text that people choose freely.

        actor: a user id; empty for the server and its operator. action: noun.past_verb. detail, before, after: what has one
        canonical form. family: the log-in session, where it is not the caller's. Request id and address come from the request.
        Raises: BadRequest for a value without a canonical form.
        """
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

    def autocommit(self) -> AbstractAsyncContextManager[UnitT_co]:
        """No transaction: each statement is one by itself, and costs one round trip instead of three.

        For steps that are one statement, or several that need not agree.
        Raises: StoreUnavailable (a statement that was lost may have been done), Overloaded.
        """
        ...


class UnitOfWork(Transactions[Unit], Protocol):
    """Of what every unit has."""
