"""Users: owns users, but for list and stream counters; registration.py makes them."""

import msgspec

from chatty.ids import UserNumber
from chatty.services.accounts import Accounts
from chatty.services.passwords import PasswordSecrets
from chatty.store.connection import TrioConnection
from chatty.wire.accounts import Account, KeyDerivation

_ACCOUNT = """SELECT user_id, identity_key, wrapped_recovery, wrapped_identity, key_derivation::text
FROM users WHERE user_number = %s"""
_CHANGE_KEYS = """UPDATE users SET login_key_sealed = %s, key_derivation = %s, wrapped_recovery = %s
WHERE user_number = %s"""


class PostgresAccounts(Accounts, PasswordSecrets):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def account(self, user: UserNumber) -> Account:
        row = await (await self._connection.execute(_ACCOUNT, (user,))).fetchone()
        assert row is not None
        return Account(
            user=row[0],
            identity_key=row[1],
            wrapped_recovery=bytes(row[2]),
            wrapped_identity=bytes(row[3]),
            key_derivation=msgspec.json.decode(row[4], type=KeyDerivation),
        )

    async def set_password(
        self, user: UserNumber, *, login_key_sealed: bytes, key_derivation: KeyDerivation, wrapped_recovery: bytes
    ) -> None:
        derivation = msgspec.json.encode(key_derivation).decode()
        await self._connection.execute(_CHANGE_KEYS, (login_key_sealed, derivation, wrapped_recovery, user))
