"""The audit log of the doubled store: records are checked as the real ones are, and not kept, for nobody reads them there."""

from collections.abc import Mapping
from typing import Any

from chatty.services.units import Audit
from chatty.testing.transactions import Transaction
from chatty.wire.canonical import canonical_json


class MemoryAudit(Audit):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

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
        canonical_json([dict(part or {}) for part in (detail, before, after)])
        await self._transaction.read()
