"""Second factors of users. Owns totp_secrets, recovery_codes and passkeys."""

from typing import Any

from chatty.crypto.passkeys import MadePasskey
from chatty.ids import PasskeyId, UserId, UserNumber
from chatty.services.factor_check import Factors, StoredPasskey, StoredTotp
from chatty.services.second_factors import SecondFactors
from chatty.store.connection import TrioConnection

# indexes: totp_secrets_pkey, recovery_codes_pkey, passkeys_user; most users have none of it, and this is all that a log-in asks
_FACTORS = """SELECT t.secret_sealed, t.last_step, t.added_day::text,
(SELECT count(*) FROM recovery_codes r WHERE r.user_number = who.user_number),
EXISTS (SELECT 1 FROM passkeys p WHERE p.user_number = who.user_number)
FROM (SELECT %s::bigint AS user_number) who
LEFT JOIN totp_secrets t ON t.user_number = who.user_number AND t.is_confirmed"""
_PENDING = "SELECT secret_sealed FROM totp_secrets WHERE user_number = %s AND NOT is_confirmed"
_PUT_PENDING = """INSERT INTO totp_secrets (user_number, is_confirmed, secret_sealed) VALUES (%s, false, %s)
ON CONFLICT (user_number, is_confirmed) DO UPDATE SET secret_sealed = EXCLUDED.secret_sealed"""
_REMOVE_CONFIRMED = "DELETE FROM totp_secrets WHERE user_number = %s AND is_confirmed"
_CONFIRM = """UPDATE totp_secrets SET is_confirmed = true, last_step = %s, added_day = current_date
WHERE user_number = %s AND NOT is_confirmed"""
_REMOVE_TOTP = "DELETE FROM totp_secrets WHERE user_number = %s"
_NOTE_STEP = "UPDATE totp_secrets SET last_step = %s WHERE user_number = %s AND is_confirmed"
_TAKE_CODE = "DELETE FROM recovery_codes WHERE user_number = %s AND code_hash = %s"
_FORGET_CODES = "DELETE FROM recovery_codes WHERE user_number = %s"
_ADD_CODES = "INSERT INTO recovery_codes (user_number, code_hash) SELECT %s, unnest(%s::bytea[])"
# index: passkeys_user
_PASSKEYS = """SELECT credential_id, public_key, sign_count, transports, name, added_day::text, wrapped_recovery
FROM passkeys WHERE user_number = %s ORDER BY passkey_number"""
# indexes: users_user_id_key, passkeys_user
_PASSKEY = """SELECT p.credential_id, p.public_key, p.sign_count, p.transports, p.name, p.added_day::text, p.wrapped_recovery
FROM users u JOIN passkeys p USING (user_number) WHERE u.user_id = %s AND p.credential_id = %s"""
_ADD_PASSKEY = """INSERT INTO passkeys
(user_number, credential_id, public_key, sign_count, transports, name, wrapped_recovery)
VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (user_number, credential_id) DO NOTHING"""
_CHANGE_PASSKEY = """UPDATE passkeys SET name = %s, wrapped_recovery = %s
WHERE user_number = %s AND credential_id = %s"""
_REMOVE_PASSKEY = "DELETE FROM passkeys WHERE user_number = %s AND credential_id = %s"
_NOTE_COUNT = "UPDATE passkeys SET sign_count = %s WHERE user_number = %s AND credential_id = %s"


class PostgresSecondFactors(SecondFactors):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def factors(self, user: UserNumber) -> Factors:
        row = await (await self._connection.execute(_FACTORS, (user,))).fetchone()
        assert row is not None
        secret, step, day, codes_left, has_passkeys = row
        return Factors(
            user_number=user,
            totp=None if secret is None else StoredTotp(secret_sealed=bytes(secret), last_step=step, day=day),
            codes_left=codes_left,
            passkeys=await self._passkeys(user) if has_passkeys else [],
        )

    async def _passkeys(self, user: UserNumber) -> list[StoredPasskey]:
        return [_passkey(row) for row in await (await self._connection.execute(_PASSKEYS, (user,))).fetchall()]

    async def passkey(self, user: UserId, passkey: PasskeyId) -> StoredPasskey | None:
        row = await (await self._connection.execute(_PASSKEY, (user, passkey))).fetchone()
        return None if row is None else _passkey(row)

    # TOTP

    async def put_pending_totp(self, user: UserNumber, secret_sealed: bytes) -> None:
        await self._connection.execute(_PUT_PENDING, (user, secret_sealed))

    async def pending_totp(self, user: UserNumber) -> bytes | None:
        row = await (await self._connection.execute(_PENDING, (user,))).fetchone()
        return None if row is None else bytes(row[0])

    async def confirm_totp(self, user: UserNumber, *, last_step: int) -> None:
        await self._connection.execute(_REMOVE_CONFIRMED, (user,))
        await self._connection.execute(_CONFIRM, (last_step, user))

    async def remove_totp(self, user: UserNumber) -> None:
        await self._connection.execute(_REMOVE_TOTP, (user,))

    async def note_totp_step(self, user: UserNumber, step: int) -> None:
        await self._connection.execute(_NOTE_STEP, (step, user))

    # Recovery codes

    async def take_code(self, user: UserNumber, hashed: bytes) -> bool:
        return (await self._connection.execute(_TAKE_CODE, (user, hashed))).rowcount == 1

    async def put_codes(self, user: UserNumber, hashes: list[bytes]) -> None:
        await self._connection.execute(_FORGET_CODES, (user,))
        await self._connection.execute(_ADD_CODES, (user, hashes))

    # Passkeys

    async def add_passkey(
        self, user: UserNumber, made: MadePasskey, *, transports: list[str], name: str, wrapped_recovery: bytes | None
    ) -> bool:
        values = (user, made.passkey, made.public_key, made.sign_count, transports, name, wrapped_recovery)
        return (await self._connection.execute(_ADD_PASSKEY, values)).rowcount == 1

    async def change_passkey(
        self, user: UserNumber, passkey: PasskeyId, *, name: str, wrapped_recovery: bytes | None
    ) -> None:
        await self._connection.execute(_CHANGE_PASSKEY, (name, wrapped_recovery, user, passkey))

    async def remove_passkey(self, user: UserNumber, passkey: PasskeyId) -> None:
        await self._connection.execute(_REMOVE_PASSKEY, (user, passkey))

    async def note_sign_count(self, user: UserNumber, passkey: PasskeyId, count: int) -> None:
        await self._connection.execute(_NOTE_COUNT, (count, user, passkey))


def _passkey(row: tuple[Any, ...]) -> StoredPasskey:
    return StoredPasskey(
        passkey=PasskeyId(row[0]),
        public_key=bytes(row[1]),
        sign_count=row[2],
        transports=row[3],
        name=row[4],
        day=row[5],
        wrapped_recovery=None if row[6] is None else bytes(row[6]),
    )
