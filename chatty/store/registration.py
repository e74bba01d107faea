"""Invitations and applications, and the making of users. Owns registration_tokens and registration_requests."""

from collections.abc import Sequence

import msgspec

from chatty.errors import NameTaken
from chatty.ids import InvitationId, UserId, UserNumber
from chatty.services.permissions import USER_ROLE
from chatty.services.registration import NewUser, Registrations, UsedInvitation, invitation_id, requests_a_name_max
from chatty.store.connection import TrioConnection
from chatty.store.deletions import IS_ERASED
from chatty.store.locks import lock_server
from chatty.wire.accounts import KeyDerivation
from chatty.wire.chain import device_list_digest
from chatty.wire.registration import Application, ListedInvitation
from chatty.wire.users import RoleField

_HAS_USERS = "SELECT EXISTS (SELECT 1 FROM users WHERE NOT is_deleted)"
_ADD_INVITATION = """INSERT INTO registration_tokens (token_hash, role, uses_left, expires_at, inviter_number)
VALUES (%s, %s, %s, now() + make_interval(secs => %s), %s)"""
_USE_INVITATION = """UPDATE registration_tokens t SET uses_left = uses_left - 1
WHERE token_hash = %s AND uses_left > 0 AND expires_at > now()
RETURNING role, inviter_number IS NOT NULL,
 (SELECT u.role FROM users u WHERE u.user_number = t.inviter_number AND NOT u.is_locked)"""
_LISTED = """t.role, t.uses_left, greatest(0, extract(epoch FROM t.expires_at - now()))::bigint,
coalesce((SELECT u.user_id FROM users u WHERE u.user_number = t.inviter_number), '')"""
_INVITATIONS = f"""SELECT t.token_hash, {_LISTED} FROM registration_tokens t
WHERE t.token_hash > %s AND t.uses_left > 0 AND t.expires_at > now() ORDER BY t.token_hash LIMIT %s"""  # noqa: S608 # constants
_TAKE_INVITATION = f"""DELETE FROM registration_tokens t WHERE t.token_hash BETWEEN %s AND %s
AND t.uses_left > 0 AND t.expires_at > now() RETURNING t.token_hash, {_LISTED}"""  # noqa: S608 # constants
_HAS_INVITATION = (
    "SELECT EXISTS (SELECT 1 FROM registration_tokens WHERE role = %s AND uses_left > 0 AND expires_at > now())"
)
# Whichever of the two unique columns is in the way, or whose account was deleted: the name is taken.
_ADD_USER = f"""INSERT INTO users
(user_id, name_skeleton, role, login_key_sealed, key_derivation, identity_key, wrapped_recovery, wrapped_identity, list_digest)
SELECT %(user)s::text, %(skeleton)s::text, %(role)s::text, %(login_key)s::bytea, %(derivation)s::jsonb, %(identity)s::text,
%(recovery)s::bytea, %(wrapped_identity)s::bytea, %(list_digest)s::bytea
WHERE NOT {IS_ERASED.format(user_id="%(user)s::text", skeleton="%(skeleton)s::text")}
ON CONFLICT DO NOTHING RETURNING user_number"""
_COUNT_REQUESTS = "SELECT count(*) FROM registration_requests"
_ADD_REQUEST = """INSERT INTO registration_requests
(user_id, name_skeleton, login_key_sealed, key_derivation, identity_key, wrapped_recovery, wrapped_identity)
VALUES (%s, %s, %s, %s, %s, %s, %s)"""
# Those that came first stay: else whoever applies often enough under somebody's name puts theirs out.
_FORGET_SURPLUS = """DELETE FROM registration_requests WHERE request_number IN (SELECT request_number
FROM registration_requests WHERE user_id = %s ORDER BY request_number OFFSET %s)"""
_REQUEST_KEYS = "SELECT login_key_sealed FROM registration_requests WHERE user_id = %s ORDER BY request_number DESC"
_PENDING = f"""SELECT r.request_number, r.user_id, extract(epoch FROM now() - r.created_at)::bigint,
NOT EXISTS (SELECT 1 FROM users u WHERE u.user_id = r.user_id OR u.name_skeleton = r.name_skeleton)
AND NOT {IS_ERASED.format(user_id="r.user_id", skeleton="r.name_skeleton")}
FROM registration_requests r ORDER BY r.request_number"""  # noqa: S608 # constants
_TAKE_REQUEST = """DELETE FROM registration_requests WHERE request_number = %s RETURNING
user_id, name_skeleton, login_key_sealed, key_derivation::text, identity_key, wrapped_recovery, wrapped_identity"""
_FORGET_REQUESTS = """DELETE FROM registration_requests WHERE request_number IN (SELECT request_number
FROM registration_requests WHERE created_at < now() - make_interval(secs => %s) ORDER BY request_number LIMIT %s)"""
_FORGET_INVITATIONS = """DELETE FROM registration_tokens WHERE token_hash IN (SELECT token_hash
FROM registration_tokens WHERE expires_at < now() OR uses_left <= 0 LIMIT %s)"""


class PostgresRegistrations(Registrations):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def lock_server(self) -> None:
        await lock_server(self._connection)

    async def has_users(self) -> bool:
        return await self._is_true(_HAS_USERS)

    async def add_token(
        self, hashed: bytes, *, role: str, uses: int, lifetime_s: float, inviter: UserNumber | None
    ) -> None:
        await self._connection.execute(_ADD_INVITATION, (hashed, role, uses, lifetime_s, inviter))

    async def use_token(self, hashed: bytes) -> UsedInvitation | None:
        row = await (await self._connection.execute(_USE_INVITATION, (hashed,))).fetchone()
        if row is None:
            return None
        return UsedInvitation(role=row[0], has_inviter=row[1], inviter_role=row[2])

    async def tokens(self, *, after: str, count_max: int) -> list[ListedInvitation]:
        rows = await (await self._connection.execute(_INVITATIONS, (_last_of(after), count_max))).fetchall()
        return [_listed(*row) for row in rows]

    async def take_token(self, invitation: InvitationId) -> ListedInvitation | None:
        bounds = (bytes.fromhex(invitation), _last_of(invitation))
        row = await (await self._connection.execute(_TAKE_INVITATION, bounds)).fetchone()
        return None if row is None else _listed(*row)

    async def has_live_token(self, role: str) -> bool:
        return await self._is_true(_HAS_INVITATION, role)

    async def add_user(self, new: NewUser) -> UserNumber:
        login_key, derivation, identity, recovery, wrapped_identity = _secrets(new)
        values = {
            "user": new.user,
            "skeleton": new.name_skeleton,
            "role": new.role,
            "login_key": login_key,
            "derivation": derivation,
            "identity": identity,
            "recovery": recovery,
            "wrapped_identity": wrapped_identity,
            "list_digest": new.list_digest,
        }
        row = await (await self._connection.execute(_ADD_USER, values)).fetchone()
        if row is None:
            raise NameTaken("taken, or too much like a name that is")
        return UserNumber(row[0])

    async def requests_count(self) -> int:
        row = await (await self._connection.execute(_COUNT_REQUESTS)).fetchone()
        assert row is not None
        return int(row[0])

    async def add_request(self, new: NewUser) -> None:
        await self._connection.execute(_ADD_REQUEST, (new.user, new.name_skeleton, *_secrets(new)))
        await self._connection.execute(_FORGET_SURPLUS, (new.user, requests_a_name_max))

    async def request_keys(self, user: UserId) -> Sequence[bytes]:
        rows = await (await self._connection.execute(_REQUEST_KEYS, (user,))).fetchall()
        return [bytes(row[0]) for row in rows]

    async def pending(self) -> list[Application]:
        rows = await (await self._connection.execute(_PENDING)).fetchall()
        return [Application(request=row[0], user=UserId(row[1]), age_s=row[2], is_name_free=row[3]) for row in rows]

    async def take_request(self, number: int) -> NewUser | None:
        row = await (await self._connection.execute(_TAKE_REQUEST, (number,))).fetchone()
        if row is None:
            return None
        return NewUser(
            user=UserId(row[0]),
            name_skeleton=row[1],
            role=USER_ROLE,
            login_key_sealed=bytes(row[2]),
            key_derivation=msgspec.json.decode(row[3], type=KeyDerivation),
            identity_key=row[4],
            wrapped_recovery=bytes(row[5]),
            wrapped_identity=bytes(row[6]),
            list_digest=device_list_digest([]),
        )

    async def forget_old(self, *, age_s: float, count_max: int) -> int:
        requests = await self._connection.execute(_FORGET_REQUESTS, (age_s, count_max))
        tokens = await self._connection.execute(_FORGET_INVITATIONS, (count_max,))
        return max(requests.rowcount, tokens.rowcount)

    async def _is_true(self, sql: str, *parameters: object) -> bool:
        row = await (await self._connection.execute(sql, parameters)).fetchone()
        return row == (True,)


def _last_of(invitation: str) -> bytes:
    """The last hash that begins with this id; of nothing, what comes before every hash."""
    return bytes.fromhex(invitation).ljust(32, b"\xff") if invitation else b""


def _listed(hashed: bytes, role: RoleField, uses_left: int, expires_in_s: int, inviter: str) -> ListedInvitation:
    return ListedInvitation(
        id=invitation_id(hashed), role=role, uses_left=uses_left, expires_in_s=expires_in_s, inviter=inviter
    )


def _secrets(new: NewUser) -> tuple[bytes, str, str, bytes, bytes]:
    derivation = msgspec.json.encode(new.key_derivation).decode()
    return new.login_key_sealed, derivation, new.identity_key, new.wrapped_recovery, new.wrapped_identity
