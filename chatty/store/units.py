"""UnitOfWork on the pool: one connection, one transaction, the features' stores on it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
import structlog

from chatty.services.units import Audit, Unit, UnitOfWork
from chatty.store.connection import TrioConnection
from chatty.store.pool import Pool
from chatty.store.requests import PostgresRequests

_RECORD = "INSERT INTO audit (actor, device, action, object, detail, request_id) VALUES (%s, %s, %s, %s, %s, %s)"


class PostgresAudit(Audit):
    """Inserts in the acting transaction; the request id comes from the logging context."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def record(self, *, actor: str, device: str, action: str, object_: str, detail: dict[str, Any]) -> None:
        request_id = structlog.contextvars.get_contextvars().get("request_id", "")
        text = msgspec.json.encode(detail).decode()
        await self._connection.execute(_RECORD, (actor, device, action, object_, text, request_id))


class PostgresUnit(Unit):
    """The features' stores on one connection."""

    def __init__(self, connection: TrioConnection) -> None:
        self._audit = PostgresAudit(connection)
        self._requests = PostgresRequests(connection)

    @property
    def audit(self) -> Audit:
        return self._audit

    @property
    def requests(self) -> PostgresRequests:
        return self._requests


class PostgresUnitOfWork(UnitOfWork):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def begin(self) -> AbstractAsyncContextManager[Unit]:
        return self._unit("read committed")

    def snapshot(self) -> AbstractAsyncContextManager[Unit]:
        return self._unit("repeatable read")

    @asynccontextmanager
    async def _unit(self, isolation: str) -> AsyncIterator[Unit]:
        async with self._pool.transaction(isolation=isolation) as connection:
            yield PostgresUnit(connection)
