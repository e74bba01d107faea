"""Families of refresh tokens. Owns refresh_families, but for the row that a log-in makes (sessions.py)."""

from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber
from chatty.services.tokens import Families, FamilyRow, Lifetimes, RefreshState
from chatty.store.connection import TrioConnection

_LOCK_FAMILY = "SELECT 1 FROM refresh_families WHERE family_id = %s FOR NO KEY UPDATE"
_FAMILY = """SELECT u.user_id, u.user_number, u.role, u.is_locked, d.device_id, d.device_number, d.is_live,
f.dpop_thumbprint, f.k, f.is_used, f.retired_ms, f.generation, f.is_revoked,
extract(epoch FROM now() - f.created_at)::float8, extract(epoch FROM now() - f.refreshed_at)::float8,
extract(epoch FROM now() - f.stepped_up_at)::float8, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM refresh_families f JOIN devices d USING (device_number) JOIN users u USING (user_number)
WHERE f.family_id = %s"""  # index: refresh_families_pkey
_SET_TOKENS = "UPDATE refresh_families SET k = %s, is_used = %s, retired_ms = %s WHERE family_id = %s"
_NOTE_REFRESH = "UPDATE refresh_families SET refreshed_at = now(), generation = %s WHERE family_id = %s"
_NOTE_WARNING = """UPDATE refresh_families SET warned_at = clock_timestamp() WHERE family_id = %s
AND (warned_at IS NULL OR warned_at < clock_timestamp() - make_interval(secs => %s))"""
_EXPIRED = """SELECT f.family_id FROM refresh_families f JOIN devices d USING (device_number)
WHERE NOT f.is_revoked AND d.is_live AND (f.refreshed_at < now() - make_interval(secs => %s)
 OR f.created_at < now() - make_interval(secs => %s)) ORDER BY f.refreshed_at LIMIT %s"""  # index: refresh_families_living
_NOTE_STEP_UP = "UPDATE refresh_families SET stepped_up_at = now() WHERE family_id = %s"
_MARK_SEEN = """UPDATE devices SET last_seen_day = current_date
WHERE device_number = %s AND last_seen_day < current_date"""


class PostgresFamilies(Families):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def lock_family(self, family: FamilyId) -> None:
        await self._connection.execute(_LOCK_FAMILY, (family,))

    async def family(self, family: FamilyId) -> FamilyRow | None:
        row = await (await self._connection.execute(_FAMILY, (family,))).fetchone()
        if row is None:
            return None
        return FamilyRow(
            user=UserId(row[0]),
            user_number=UserNumber(row[1]),
            role=row[2],
            is_locked=row[3],
            device=DeviceId(row[4]),
            device_number=DeviceNumber(row[5]),
            is_live=row[6],
            thumbprint=row[7],
            tokens=RefreshState(k=row[8], is_used=row[9], retired_ms=tuple(row[10])),
            generation=row[11],
            is_revoked=row[12],
            age_s=row[13],
            idle_s=row[14],
            step_up_age_s=row[15],
            now_ms=row[16],
        )

    async def set_tokens(self, family: FamilyId, tokens: RefreshState) -> None:
        row = (tokens.k, tokens.is_used, list(tokens.retired_ms), family)
        await self._connection.execute(_SET_TOKENS, row)

    async def note_refresh(self, family: FamilyId, *, generation: int) -> None:
        await self._connection.execute(_NOTE_REFRESH, (generation, family))

    async def note_warning(self, family: FamilyId, *, pause_s: float) -> bool:
        return (await self._connection.execute(_NOTE_WARNING, (family, pause_s))).rowcount == 1

    async def mark_seen(self, device: DeviceNumber) -> None:
        await self._connection.execute(_MARK_SEEN, (device,))

    async def expired(self, lifetimes: Lifetimes, *, count_max: int) -> list[FamilyId]:
        limits = (lifetimes.idle_s, lifetimes.absolute_s, count_max)
        return [FamilyId(row[0]) for row in await (await self._connection.execute(_EXPIRED, limits)).fetchall()]

    async def note_step_up(self, family: FamilyId) -> None:
        await self._connection.execute(_NOTE_STEP_UP, (family,))
