"""The server's identity and its sealed keys. Owns server and sealed_keys."""

from chatty.ids import Seq
from chatty.services.server import Server, ServerIdentity
from chatty.services.signing_keys import SealedKeys, StoredKey
from chatty.store.connection import TrioConnection
from chatty.wire.frames import Generation

_LOCK = "SELECT pg_advisory_xact_lock(%s)"
_advisory_lock = 0x63686174_74790002  # "chatty" and a number of ours
_IDENTITY = "SELECT server_name, generation, generation_id FROM server"
_SET_IDENTITY = "INSERT INTO server (server_name, generation, generation_id) VALUES (%s, %s, %s)"
_SEALED_KEYS = "SELECT version, sealed FROM sealed_keys WHERE purpose = %s"  # index: sealed_keys_pkey
_KEYS_BY_TURN = """SELECT version, extract(epoch FROM signs_from)::float8,
extract(epoch FROM clock_timestamp() - created_at)::float8, sealed
FROM sealed_keys WHERE purpose = %s ORDER BY signs_from, version"""  # index: sealed_keys_pkey
_ADD_SEALED_KEY = """INSERT INTO sealed_keys (purpose, version, sealed, signs_from)
VALUES (%s, %s, %s, clock_timestamp() + make_interval(secs => %s))"""
_DELETE_SEALED_KEY = "DELETE FROM sealed_keys WHERE purpose = %s AND version = %s"


class PostgresServer(Server, SealedKeys):
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

    async def keys_by_turn(self, purpose: str) -> list[StoredKey]:
        rows = await (await self._connection.execute(_KEYS_BY_TURN, (purpose,))).fetchall()
        return [StoredKey(version=row[0], signs_from_s=row[1], age_s=row[2], sealed=bytes(row[3])) for row in rows]

    async def add_sealed_key(self, purpose: str, *, version: int, sealed: bytes, signs_in_s: float = 0.0) -> None:
        await self._connection.execute(_ADD_SEALED_KEY, (purpose, version, sealed, signs_in_s))

    async def delete_sealed_key(self, purpose: str, *, version: int) -> None:
        await self._connection.execute(_DELETE_SEALED_KEY, (purpose, version))
