"""What is exported of an account: a list of parts, each one statement over tables that hold something about a user.

To add a table, add a Part, or a line to LEFT_OUT that says why not: tests/store/test_exports.py compares both with the schema.
Statements run in one snapshot through cursors of the server, some rows at a time. Bytes become base64, json stays json.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from chatty.ids import UserId, UserNumber
from chatty.services.exports import Exports
from chatty.store.connection import TrioConnection

rows_at_once = 50  # at most a ciphertext each
_FETCH = f"FETCH {rows_at_once} FROM export"
_statement_timeout = "SET LOCAL statement_timeout = '60s'"  # a part may look at every event of the user's rooms


@dataclass(frozen=True, kw_only=True)
class Part:
    """type: of its lines. tables: what it tells about. sql: %(user)s is the user's number, %(user_id)s the id."""

    type: str
    tables: tuple[str, ...]
    sql: str


PARTS = (
    Part(
        type="account",
        tables=("users",),
        sql="""SELECT user_id AS "user", role, is_locked, created_day, identity_key, wrapped_recovery, wrapped_identity,
key_derivation, list_version, list_digest, stream_seq, rooms_created_count, shows_presence,
shows_receipts FROM users WHERE user_number = %(user)s""",
    ),
    Part(
        type="device",
        tables=("devices", "device_send"),
        sql="""SELECT d.device_id AS device, d.name, d.is_live, d.in_set, d.last_seen_day, d.keys, s.highest_n, s.low
FROM devices d LEFT JOIN device_send s USING (device_number) WHERE d.user_number = %(user)s ORDER BY d.device_number""",
    ),
    Part(
        type="log_in_session",
        tables=("refresh_families",),
        sql="""SELECT f.family_id AS family, d.device_id AS device, f.k, f.is_used, f.is_revoked, f.dpop_thumbprint,
f.created_at, f.refreshed_at, f.stepped_up_at, f.warned_at FROM refresh_families f JOIN devices d USING (device_number)
WHERE d.user_number = %(user)s ORDER BY f.created_at""",
    ),
    # No secret that the server only keeps to check a code with; whoever wants one makes a new one.
    Part(
        type="totp",
        tables=("totp_secrets",),
        sql="SELECT is_confirmed, added_day FROM totp_secrets WHERE user_number = %(user)s ORDER BY is_confirmed",
    ),
    Part(
        type="recovery_codes",
        tables=("recovery_codes",),
        sql="SELECT count(*) AS left_count FROM recovery_codes WHERE user_number = %(user)s HAVING count(*) > 0",
    ),
    Part(
        type="passkey",
        tables=("passkeys",),
        sql="""SELECT credential_id AS passkey, name, added_day, public_key, sign_count, transports, wrapped_recovery
FROM passkeys WHERE user_number = %(user)s ORDER BY passkey_number""",
    ),
    Part(
        type="registration_invitation",
        tables=("registration_tokens",),
        sql="""SELECT role, uses_left, expires_at FROM registration_tokens WHERE inviter_number = %(user)s
ORDER BY expires_at, token_hash""",
    ),
    Part(
        type="one_time_key",
        tables=("one_time_keys",),
        sql="""SELECT d.device_id AS device, k.key_id, k.key_json IS NULL AS is_claimed, k.key_json::json AS key
FROM one_time_keys k JOIN devices d USING (device_number) WHERE d.user_number = %(user)s ORDER BY k.device_number, k.position""",
    ),
    Part(
        type="fallback_key",
        tables=("fallback_keys",),
        sql="""SELECT d.device_id AS device, k.algorithm, k.key_id, k.is_used, k.key_json::json AS key
FROM fallback_keys k JOIN devices d USING (device_number) WHERE d.user_number = %(user)s ORDER BY k.device_number, k.algorithm""",
    ),
    Part(
        type="request",
        tables=("requests",),
        sql="""SELECT d.device_id AS device, r.n, o.room_id AS room, r.seq, r.time, r.refusal, r.answer
FROM requests r JOIN devices d USING (device_number) LEFT JOIN rooms o USING (room_number)
WHERE d.user_number = %(user)s ORDER BY r.device_number, r.n""",
    ),
    Part(
        type="user_event",
        tables=("user_stream",),
        sql="""SELECT seq, time, kind, content::json AS content FROM user_stream WHERE user_number = %(user)s ORDER BY seq""",
    ),
    Part(
        type="block",
        tables=("blocks",),
        sql="""SELECT u.user_id AS "user" FROM blocks b JOIN users u ON u.user_number = b.blocked_number
WHERE b.user_number = %(user)s ORDER BY u.user_id""",
    ),
    Part(
        type="mailbox",
        tables=("mailbox",),
        sql="""SELECT d.device_id AS device, u.user_id AS sender, s.device_id AS sender_device, m.n, m.kind,
m.content::json AS content
FROM mailbox m JOIN devices d ON d.device_number = m.device_number JOIN devices s ON s.device_number = m.sender_device_number
JOIN users u ON u.user_number = s.user_number WHERE d.user_number = %(user)s ORDER BY m.mailbox_id""",
    ),
    Part(
        type="mailbox_sent",
        tables=("mailbox",),
        sql="""SELECT s.device_id AS sender_device, u.user_id AS recipient, d.device_id AS device, m.n, m.kind,
m.content::json AS content
FROM mailbox m JOIN devices d ON d.device_number = m.device_number JOIN devices s ON s.device_number = m.sender_device_number
JOIN users u ON u.user_number = d.user_number WHERE s.user_number = %(user)s ORDER BY m.mailbox_id""",
    ),
    Part(
        type="room",
        tables=("members", "rooms"),
        sql="""SELECT r.room_id AS room, m.standing, m.role, m.changed_seq, m.removed_seq, m.list_version, m.list_digest,
m.identity, r.direct_pair FROM members m JOIN rooms r USING (room_number) WHERE m.user_number = %(user)s ORDER BY r.room_id""",
    ),
    Part(
        type="membership",
        tables=("member_intervals",),
        sql="""SELECT r.room_id AS room, i.from_seq, i.to_seq FROM members m
JOIN member_intervals i USING (room_number, user_number) JOIN rooms r USING (room_number)
WHERE m.user_number = %(user)s ORDER BY r.room_id, i.from_seq""",
    ),
    Part(
        type="read_cursor",
        tables=("read_cursors",),
        sql="""SELECT r.room_id AS room, c.seq FROM read_cursors c JOIN rooms r USING (room_number)
WHERE c.user_number = %(user)s ORDER BY r.room_id""",
    ),
    # Room by room, along the timeline's key: it has no index by sender, and needs none for anything else.
    Part(
        type="event",
        tables=("timeline", "bodies", "passing_bodies"),
        sql="""SELECT r.room_id AS room, t.seq, t.time, t.kind, d.device_id AS device, t.n, t.algorithm, t.session_id, t.epoch,
t.silent, t.expiry, t.ends, t.deletion_seq, t.target, t.signature, t.body_hash,
CASE WHEN t.kind = 'message' THEN coalesce(b.body, p.body) END AS ciphertext,
CASE WHEN t.kind <> 'message' THEN convert_from(b.body, 'UTF8')::json END AS content
FROM members m JOIN rooms r USING (room_number) CROSS JOIN LATERAL (SELECT * FROM timeline
 WHERE timeline.room_number = m.room_number AND timeline.sender_number = m.user_number ORDER BY timeline.seq) t
LEFT JOIN bodies b ON b.room_number = t.room_number AND b.seq = t.seq
LEFT JOIN passing_bodies p ON p.ends = t.ends AND t.ends > 0 AND p.room_number = t.room_number AND p.seq = t.seq
LEFT JOIN devices d ON d.device_number = t.device_number
WHERE m.user_number = %(user)s""",
    ),
    # What others did to the user is told without who they are.
    Part(
        type="audit",
        tables=("audit",),
        sql="""SELECT a.time, a.action, a.object, a.detail, a.before, a.after, a.actor = %(user_id)s AS is_own,
CASE WHEN a.actor = %(user_id)s THEN a.device END AS device, CASE WHEN a.actor = %(user_id)s THEN a.family END AS family,
CASE WHEN a.actor = %(user_id)s THEN a.request_id END AS request_id, CASE WHEN a.actor = %(user_id)s THEN a.address END AS address
FROM audit a WHERE a.actor = %(user_id)s OR a.object = %(user_id)s OR a.detail->>'target' = %(user_id)s
OR a.object IN (SELECT device_id FROM devices WHERE user_number = %(user)s) ORDER BY a.audit_id""",
    ),
)

LEFT_OUT = {
    "owed_devices": "Rooms that are not told yet of the list version in `account`: gone within seconds.",
    "revocations": "Devices ended within the last ten minutes, as `device` says.",
    "deletions": "Accounts that are deleted, and ask for nothing any more.",
    "erasures": "Rooms of accounts that are deleted.",
    "erased_names": "Hashes of names of accounts that are deleted.",
    "registration_requests": "Who else wants a name; no application of somebody who has an account is left.",
}


class PostgresExports(Exports):
    """On one connection, inside its snapshot."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def rows(self, user: UserNumber, user_id: UserId) -> AsyncGenerator[Mapping[str, Any], None]:
        await self._connection.execute(_statement_timeout)
        params = {"user": user, "user_id": user_id}
        for part in PARTS:
            await self._connection.execute(f"DECLARE export NO SCROLL CURSOR FOR {part.sql}", params)
            while True:
                cursor = await self._connection.execute(_FETCH)
                names = [column.name for column in cursor.description or ()]
                rows = await cursor.fetchall()
                for row in rows:
                    yield {"type": part.type, **dict(zip(names, row, strict=True))}
                if len(rows) < rows_at_once:
                    break
            await self._connection.execute("CLOSE export")
