"""The server's own keys, kept sealed in the database: made at the first start, the same on every node.

The data key is sealed under the master key, every other key under the data key. A start with another master key fails here,
before anything is served.
"""

import os
from dataclasses import dataclass
from typing import Protocol

from chatty.crypto.audit import AuditKey
from chatty.crypto.sealing import MasterKey, Random, Sealer, key_bytes
from chatty.crypto.tokens import Keyring, SigningKey
from chatty.services.server import Server, ServerUnit
from chatty.services.signing_keys import SIGNING_KEY, SealedKeys, open_keyring
from chatty.services.units import Transactions

AUDIT_KEY = "audit_key"
_DATA_KEY = "data_key"


@dataclass(frozen=True, kw_only=True, repr=False)
class ServerKeys:
    """sealer: for secrets at rest. signing: access tokens, as read at the start. checkpoint: rooms' heads. audit: heads of the
    audit log. The others are MAC keys.
    """

    sealer: Sealer
    signing: Keyring
    checkpoint: SigningKey
    audit: AuditKey
    salt_key: bytes
    refresh_key: bytes
    nonce_key: bytes


class ServerKeysUnit(Protocol):
    @property
    def server(self) -> "KeyStore": ...


class KeyStore(Server, SealedKeys, Protocol):
    """What opening the keys needs of the store."""


async def open_server_keys(
    unit_of_work: Transactions[ServerKeysUnit], master: MasterKey, *, random: Random = os.urandom
) -> ServerKeys:
    """Raises: SealBroken: the master key is not the one that these keys were sealed under."""
    async with unit_of_work.begin() as unit:
        await unit.server.lock()
        sealer = Sealer(await _data_keys(unit.server, master, random), random=random)
        await _newest_key(unit.server, sealer, SIGNING_KEY, random)
        ring = open_keyring(sealer, await unit.server.keys_by_turn(SIGNING_KEY))
        checkpoint, audit, salt, refresh, nonce = [
            await _newest_key(unit.server, sealer, purpose, random)
            for purpose in ("checkpoint_key", AUDIT_KEY, "salt_key", "refresh_key", "nonce_key")
        ]
    return ServerKeys(
        sealer=sealer,
        signing=ring,
        checkpoint=SigningKey(checkpoint),
        audit=AuditKey(audit),
        salt_key=salt,
        refresh_key=refresh,
        nonce_key=nonce,
    )


async def read_audit_keys(unit_of_work: Transactions[ServerUnit], master: MasterKey) -> list[str]:
    """The public audit keys, as the master key vouches for them; none on a database that no server has started on.

    Raises: SealBroken.
    """
    async with unit_of_work.snapshot() as unit:
        data_keys = {
            version: master.unwrap(sealed, version=version)
            for version, sealed in (await unit.server.sealed_keys(_DATA_KEY)).items()
        }
        stored = await unit.server.sealed_keys(AUDIT_KEY)
    if not data_keys:
        return []
    sealer = Sealer(data_keys)
    return [
        AuditKey(sealer.open(sealed, purpose=f"{AUDIT_KEY}/{version}")).public for version, sealed in stored.items()
    ]


async def _data_keys(server: Server, master: MasterKey, random: Random) -> dict[int, bytes]:
    stored = await server.sealed_keys(_DATA_KEY)
    if stored:
        return {version: master.unwrap(sealed, version=version) for version, sealed in stored.items()}
    made = random(key_bytes)
    await server.add_sealed_key(_DATA_KEY, version=1, sealed=master.wrap(made, version=1, random=random))
    return {1: made}


async def _newest_key(server: Server, sealer: Sealer, purpose: str, random: Random) -> bytes:
    stored = await server.sealed_keys(purpose)
    if stored:
        version = max(stored)
        return sealer.open(stored[version], purpose=f"{purpose}/{version}")
    made = random(key_bytes)
    await server.add_sealed_key(purpose, version=1, sealed=sealer.seal(made, purpose=f"{purpose}/1"))
    return made
