"""Users and registration tokens. Owns users (but for list and stream counters) and registration_tokens."""

import msgspec

from chatty.errors import NameTaken
from chatty.ids import UserNumber
from chatty.services.accounts import Accounts, NewUser
from chatty.store.connection import TrioConnection
from chatty.wire.accounts import Account, KeyDerivation

_ADD_USER = """INSERT INTO users
(user_id, role, login_key_sealed, key_derivation, identity_key, wrapped_recovery, wrapped_identity, list_digest)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (user_id) DO NOTHING RETURNING user_number"""
_ACCOUNT = """SELECT user_id, identity_key, wrapped_recovery, wrapped_identity, key_derivation::text
FROM users WHERE user_number = %s"""
_ADMIT = """UPDATE registration_tokens SET uses_left = uses_left - 1
WHERE token_hash = %s AND uses_left > 0 AND expires_at > now() RETURNING role"""
_ADD_INVITE = """INSERT INTO registration_tokens (token_hash, role, uses_left, expires_at)
VALUES (%s, %s, %s, now() + make_interval(secs => %s))"""


class PostgresAccounts(Accounts):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def add_user(self, new: NewUser) -> UserNumber:
        values = (
            new.user,
            new.role,
            new.login_key_sealed,
            msgspec.json.encode(new.key_derivation).decode(),
            new.identity_key,
            new.wrapped_recovery,
            new.wrapped_identity,
            new.list_digest,
        )
        row = await (await self._connection.execute(_ADD_USER, values)).fetchone()
        if row is None:
            raise NameTaken(f"{new.user} exists")
        return UserNumber(row[0])

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

    async def use_token(self, hashed: bytes) -> str | None:
        row = await (await self._connection.execute(_ADMIT, (hashed,))).fetchone()
        return None if row is None else str(row[0])

    async def add_token(self, hashed: bytes, *, role: str, uses: int, lifetime_s: float) -> None:
        await self._connection.execute(_ADD_INVITE, (hashed, role, uses, lifetime_s))
