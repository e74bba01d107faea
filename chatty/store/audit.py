"""The audit log: rows from whoever acts, the chain over them, what the console reads. Owns audit, audit_seals, audit_heads."""

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec

from chatty.crypto.sealing import Random
from chatty.services.audit import AuditChain, AuditReading, current_origin
from chatty.services.caller import current_operator
from chatty.services.units import Audit
from chatty.store.connection import TrioConnection
from chatty.wire.audit import AuditHead, AuditRow, ListedRow, SealedRow, UnsealedRow, address_hash
from chatty.wire.canonical import canonical_json, decode_base64, encode_base64

salt_bytes = 16
_page_rows = 500
_advisory_lock = 0x63686174_74790003  # "chatty" and a number of ours

_RECORD = """INSERT INTO audit (actor, device, family, action, object, detail, before, after, request_id,
address, address_salt, address_hash) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(%s)"
_HEAD = "SELECT server_name, h.generation, position, head, time, key, signature FROM audit_heads h, server"
# index: audit_heads_pkey
_NEWEST_HEAD = f"{_HEAD} ORDER BY head_number DESC LIMIT 1"
# index: audit_heads_position
_HEADS = f"{_HEAD} WHERE position > %s AND position <= %s ORDER BY position, head_number"
_ROW = """(extract(epoch FROM a.time) * 1000000)::bigint, a.actor, a.device, a.family, a.action, a.object, a.detail::text,
a.before::text, a.after::text, a.request_id, a.address_hash, a.address, a.address_salt"""
_UNSEALED = f"""SELECT a.audit_id, {_ROW} FROM audit a
WHERE NOT a.is_sealed ORDER BY a.audit_id LIMIT %s"""  # noqa: S608 # constants; index: audit_unsealed
_ADD_SEALS = """INSERT INTO audit_seals (position, audit_id, leaf)
SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bytea[])"""
_MARK = "UPDATE audit SET is_sealed = true WHERE audit_id = ANY(%s)"  # index: audit_pkey
_ADD_HEAD = """INSERT INTO audit_heads (position, head, generation, time, key, signature)
VALUES (%s, %s, %s, %s, %s, %s)"""
_UNSEALED_AGE = """SELECT extract(epoch FROM clock_timestamp() - time)::float8 FROM audit
WHERE NOT is_sealed ORDER BY audit_id LIMIT 1"""  # index: audit_unsealed
_ERASE = """UPDATE audit SET address = NULL, address_salt = NULL WHERE audit_id IN (SELECT audit_id FROM audit
WHERE address IS NOT NULL AND time < clock_timestamp() - make_interval(secs => %s)
ORDER BY time LIMIT %s)"""  # index: audit_addresses
_SEALED = f"""SELECT s.position, s.audit_id, s.leaf, a.audit_id IS NOT NULL, {_ROW}
FROM audit_seals s LEFT JOIN audit a USING (audit_id)
WHERE s.position > %s ORDER BY s.position LIMIT %s"""  # noqa: S608 # constants; index: audit_seals_pkey
_OUTSIDE = f"""SELECT a.audit_id, a.is_sealed, {_ROW} FROM audit a LEFT JOIN audit_seals s USING (audit_id)
WHERE s.audit_id IS NULL AND a.audit_id > %s ORDER BY a.audit_id LIMIT %s"""  # noqa: S608 # constants
_LIST = f"""SELECT a.audit_id, s.position, {_ROW} FROM audit a LEFT JOIN audit_seals s USING (audit_id)
WHERE (%(actor)s::text IS NULL OR a.actor = %(actor)s) AND (%(object)s::text IS NULL OR a.object = %(object)s)
AND (%(action)s::text IS NULL OR a.action = %(action)s OR starts_with(a.action, %(action)s || '.'))
AND (%(family)s::text IS NULL OR a.family = %(family)s)
AND (%(request_id)s::text IS NULL OR a.request_id = %(request_id)s)
AND (%(address)s::text IS NULL OR a.address = %(address)s)
AND (%(since)s::timestamptz IS NULL OR a.time >= %(since)s)
AND (%(until)s::timestamptz IS NULL OR a.time < %(until)s)
AND (%(before)s::bigint IS NULL OR a.audit_id < %(before)s)
ORDER BY a.audit_id DESC LIMIT %(count_max)s"""  # noqa: S608 # constants; index: audit_pkey, from its end
_WANTED = ("actor", "object", "action", "family", "request_id", "address", "since", "until", "before")


class PostgresAudit(Audit, AuditChain, AuditReading):
    """On one connection, inside its transaction; the request id and the address come from the request's origin."""

    def __init__(self, connection: TrioConnection, *, random: Random = os.urandom) -> None:
        self._connection = connection
        self._random = random

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
        origin, operator = current_origin(), current_operator()
        if not actor and operator is not None:
            actor, device = operator.user, operator.device
        values = [canonical_json(dict(value or {})).decode() for value in (detail, before, after)]
        address, salt, hashed = self._salted(origin.address)
        family = origin.family if family is None else family
        row = (actor, device, family, action, object_, *values, origin.request_id, address, salt, hashed)
        await self._connection.execute(_RECORD, row)

    def _salted(self, address: str) -> tuple[str | None, bytes | None, bytes]:
        if not address:
            return None, None, b""
        salt = self._random(salt_bytes)
        return address, salt, address_hash(salt, address)

    # Sealing ---------------------------------------------------------------------------------------------------------

    async def try_lock(self) -> bool:
        row = await (await self._connection.execute(_TRY_LOCK, (_advisory_lock,))).fetchone()
        return row == (True,)

    async def newest_head(self) -> AuditHead | None:
        row = await (await self._connection.execute(_NEWEST_HEAD)).fetchone()
        return None if row is None else _head(row)

    async def unsealed(self, *, count_max: int) -> list[UnsealedRow]:
        rows = await (await self._connection.execute(_UNSEALED, (count_max,))).fetchall()
        return [UnsealedRow(audit_id=row[0], row=_row(row[1:])) for row in rows]

    async def seal(self, seals: Sequence[SealedRow], head: AuditHead) -> None:
        ids = [one.audit_id for one in seals]
        if seals:
            leaves = [decode_base64(one.leaf) for one in seals]
            await self._connection.execute(_ADD_SEALS, ([one.position for one in seals], ids, leaves))
            await self._connection.execute(_MARK, (ids,))
        signed = (head.position, decode_base64(head.head), head.generation, head.time, head.key, head.signature)
        await self._connection.execute(_ADD_HEAD, signed)

    async def unsealed_age_s(self) -> float:
        row = await (await self._connection.execute(_UNSEALED_AGE)).fetchone()
        return 0.0 if row is None else float(row[0])

    async def erase_addresses(self, *, age_s: float, count_max: int) -> int:
        return (await self._connection.execute(_ERASE, (age_s, count_max))).rowcount

    # Reading ---------------------------------------------------------------------------------------------------------

    async def lines(self, *, with_addresses: bool = True) -> AsyncGenerator[SealedRow | AuditHead | UnsealedRow, None]:
        """The whole log, as a Verifier takes it; call it in a snapshot. Pages of 500 rows are held."""
        last = -1
        while True:
            rows = await (await self._connection.execute(_SEALED, (max(last, 0), _page_rows))).fetchall()
            upto = rows[-1][0] if len(rows) == _page_rows else 2**63 - 1
            heads = await (await self._connection.execute(_HEADS, (last, upto))).fetchall()
            lines: list[SealedRow | AuditHead] = [_sealed(row, with_address=with_addresses) for row in rows]
            lines += [_head(row) for row in heads]
            for one in sorted(lines, key=lambda line: (line.position, isinstance(line, AuditHead))):
                yield one
            if len(rows) < _page_rows:
                break
            last = upto
        async for line in self._outside():
            yield line

    async def _outside(self) -> AsyncGenerator[UnsealedRow, None]:
        """Rows without a place in the chain."""
        last = 0
        while True:
            rows = await (await self._connection.execute(_OUTSIDE, (last, _page_rows))).fetchall()
            for row in rows:
                yield UnsealedRow(audit_id=row[0], claims_seal=row[1], row=_row(row[2:]))
            if len(rows) < _page_rows:
                return
            last = rows[-1][0]

    async def listed(self, *, count_max: int, **wanted: Any) -> list[ListedRow]:
        values = {name: wanted.pop(name, None) for name in _WANTED}
        assert not wanted, f"no such choice: {wanted}"
        rows = await (await self._connection.execute(_LIST, {**values, "count_max": count_max})).fetchall()
        return [ListedRow(audit_id=row[0], position=row[1], row=_row(row[2:]), address=row[13]) for row in rows]


def _row(row: Sequence[Any]) -> AuditRow:
    detail, before, after = (msgspec.json.decode(text) for text in row[6:9])
    return AuditRow(
        time_us=row[0],
        actor=row[1],
        device=row[2],
        family=row[3],
        action=row[4],
        object=row[5],
        detail=detail,
        before=before,
        after=after,
        request_id=row[9],
        address_hash=encode_base64(bytes(row[10])),
    )


def _sealed(row: Sequence[Any], *, with_address: bool) -> SealedRow:
    found = _row(row[4:]) if row[3] else None
    address, salt = (row[15], row[16]) if with_address else (None, None)
    return SealedRow(
        position=row[0],
        audit_id=row[1],
        leaf=encode_base64(bytes(row[2])),
        row=found,
        address=address,
        salt=None if salt is None else encode_base64(bytes(salt)),
    )


def _head(row: Sequence[Any]) -> AuditHead:
    return AuditHead(
        server=row[0],
        generation=row[1],
        position=row[2],
        head=encode_base64(bytes(row[3])),
        time=row[4],
        key=row[5],
        signature=row[6],
    )
