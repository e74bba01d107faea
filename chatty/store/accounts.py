"""Users: owns users, but for list and stream counters; registration.py makes them."""

import msgspec

from chatty.ids import UserNumber
from chatty.services.accounts import Accounts
from chatty.store.connection import TrioConnection
from chatty.wire.accounts import Account, KeyDerivation

_ACCOUNT = """SELECT user_id, identity_key, wrapped_recovery, wrapped_identity, key_derivation::text
FROM users WHERE user_number = %s"""


class PostgresAccounts(Accounts):
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
