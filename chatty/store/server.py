"""The server's identity and its sealed keys. Owns server, sealed_keys and key_successions."""

import msgspec

from chatty.ids import Seq
from chatty.services.key_rotation import RotatedKeys
from chatty.services.server import ServerIdentity
from chatty.services.server_keys import StoredKey
from chatty.store.connection import TrioConnection
from chatty.wire.frames import Generation
from chatty.wire.successions import KeySuccession

_LOCK = "SELECT pg_advisory_xact_lock(%s)"
_advisory_lock = 0x63686174_74790002  # "chatty" and a number of ours
_IDENTITY = "SELECT server_name, generation, generation_id FROM server"
_SET_IDENTITY = "INSERT INTO server (server_name, generation, generation_id) VALUES (%s, %s, %s)"
_SEALED_KEYS = "SELECT version, sealed FROM sealed_keys WHERE purpose = %s"  # index: sealed_keys_pkey
_KEYS = """SELECT purpose, version, extract(epoch FROM signs_from)::float8,
extract(epoch FROM clock_timestamp() - created_at)::float8, is_public, extract(epoch FROM revoked_at)::float8, sealed
FROM sealed_keys WHERE %(purpose)s::text IS NULL OR purpose = %(purpose)s ORDER BY signs_from, version"""  # few rows
_ADD_SEALED_KEY = """INSERT INTO sealed_keys (purpose, version, sealed, signs_from)
VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s))"""
_RESEAL_KEY = "UPDATE sealed_keys SET sealed = %s WHERE purpose = %s AND version = %s"
_KEEP_PUBLIC = "UPDATE sealed_keys SET sealed = %s, is_public = true WHERE purpose = %s AND version = %s"
_BRING_FORWARD = "UPDATE sealed_keys SET signs_from = clock_timestamp() WHERE purpose = %s AND version = %s"
_REVOKE_KEY = "UPDATE sealed_keys SET revoked_at = clock_timestamp() WHERE purpose = %s AND version = %s"
_SUCCESSIONS = "SELECT statement FROM key_successions ORDER BY purpose, version"  # index: key_successions_pkey
_MASTER_AGE = """SELECT extract(epoch FROM clock_timestamp() - coalesce(
(SELECT finished_at FROM key_rotations WHERE kind = 'master'), (SELECT min(created_at) FROM sealed_keys)))::float8"""
_PUT_SUCCESSION = """INSERT INTO key_successions (purpose, version, statement) VALUES (%s, %s, %s)
ON CONFLICT (purpose, version) DO UPDATE SET statement = excluded.statement"""
_DELETE_SUCCESSION = "DELETE FROM key_successions WHERE purpose = %s AND version = %s"
_DELETE_SEALED_KEY = "DELETE FROM sealed_keys WHERE purpose = %s AND version = %s"


class PostgresServer(RotatedKeys):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def lock(self) -> None:
        await self._connection.execute(_LOCK, (_advisory_lock,))

    async def identity(self) -> ServerIdentity | None:
        row = await (await self._connection.execute(_IDENTITY)).fetchone()
        if row is None:
            return None
        return ServerIdentity(name=row[0], generation=Generation(number=Seq(row[1]), id=row[2]))

    async def set_identity(self, identity: ServerIdentity) -> None:
        generation = identity.generation
        await self._connection.execute(_SET_IDENTITY, (identity.name, generation.number, generation.id))

    async def sealed_keys(self, purpose: str) -> dict[int, bytes]:
        rows = await (await self._connection.execute(_SEALED_KEYS, (purpose,))).fetchall()
        return {version: bytes(sealed) for version, sealed in rows}

    async def keys(self, purpose: str | None = None) -> list[StoredKey]:
        rows = await (await self._connection.execute(_KEYS, {"purpose": purpose})).fetchall()
        return [
            StoredKey(
                purpose=row[0],
                version=row[1],
                signs_from_s=row[2],
                age_s=row[3],
                is_public=row[4],
                revoked_at_s=row[5],
                sealed=bytes(row[6]),
            )
            for row in rows
        ]

    async def add_sealed_key(self, purpose: str, *, version: int, sealed: bytes, signs_in_s: float = 0.0) -> None:
        await self._connection.execute(_ADD_SEALED_KEY, (purpose, version, sealed, signs_in_s))

    async def delete_sealed_key(self, purpose: str, *, version: int) -> None:
        await self._connection.execute(_DELETE_SEALED_KEY, (purpose, version))

    async def reseal_key(self, purpose: str, *, version: int, sealed: bytes) -> None:
        await self._connection.execute(_RESEAL_KEY, (sealed, purpose, version))

    async def keep_public_half(self, purpose: str, *, version: int, sealed: bytes) -> None:
        await self._connection.execute(_KEEP_PUBLIC, (sealed, purpose, version))

    async def bring_forward(self, purpose: str, *, version: int) -> None:
        await self._connection.execute(_BRING_FORWARD, (purpose, version))

    async def note_revoked(self, purpose: str, *, version: int) -> None:
        await self._connection.execute(_REVOKE_KEY, (purpose, version))

    async def successions(self) -> list[KeySuccession]:
        rows = await (await self._connection.execute(_SUCCESSIONS)).fetchall()
        return [msgspec.json.decode(row[0], type=KeySuccession) for row in rows]

    async def put_succession(self, succession: KeySuccession, *, version: int) -> None:
        statement = msgspec.json.encode(succession).decode()
        await self._connection.execute(_PUT_SUCCESSION, (succession.purpose, version, statement))

    async def delete_succession(self, purpose: str, *, version: int) -> None:
        await self._connection.execute(_DELETE_SUCCESSION, (purpose, version))

    async def master_age_s(self) -> float:
        row = await (await self._connection.execute(_MASTER_AGE)).fetchone()
        return 0.0 if row is None or row[0] is None else float(row[0])
