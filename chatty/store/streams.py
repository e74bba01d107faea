"""User streams: gapless per user, numbered under the user's row lock, which the caller holds."""

from typing import Any

import msgspec

from chatty.ids import UserNumber, UserSeq
from chatty.store.connection import TrioConnection

_NEXT = "UPDATE users SET stream_seq = stream_seq + 1 WHERE user_number = %s RETURNING stream_seq"
_INSERT = "INSERT INTO user_stream (user_number, seq, time, kind, content) VALUES (%s, %s, %s, %s, %s)"


async def append_user_event(
    connection: TrioConnection, user: UserNumber, *, kind: str, content: dict[str, Any], time_ms: int
) -> UserSeq:
    """One entry at the end of the user's stream; the caller's transaction holds the lock of the user's row."""
    row = await (await connection.execute(_NEXT, (user,))).fetchone()
    assert row is not None
    text = msgspec.json.encode(content).decode()
    await connection.execute(_INSERT, (user, row[0], time_ms, kind, text))
    return UserSeq(row[0])
