"""Telling a Sentry where this server crashed (CHATTY_SENTRY_DSN): places, types and counts, as they stand in the database.

It is told by plain requests in Sentry's envelope format, version 7; so nothing of this process is patched, and nothing leaves it
but what stands here. One event a place and writing, at most `events_max`; one that cannot be told is not told again.
Source: https://develop.sentry.dev/sdk/data-model/envelopes/.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog

import chatty
from chatty.errors import BadConfiguration
from chatty.services.crashes import CrashGroup

events_max = 20
_timeout_s = 5.0
log = structlog.get_logger("chatty.sentry")


def sentry_teller(dsn: str) -> Callable[[Sequence[CrashGroup]], Awaitable[None]]:
    """dsn: https://key@host/project, as Sentry shows it. Raises: BadConfiguration."""
    import httpx  # 0.1 s that a server without Sentry does not need

    url, key = _target(dsn)
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadConfiguration(f"CHATTY_SENTRY_DSN: {error}") from None
    headers = {
        "Content-Type": "application/x-sentry-envelope",
        "X-Sentry-Auth": f"Sentry sentry_version=7, sentry_client=chatty/{chatty.__version__}, sentry_key={key}",
    }

    async def tell(groups: Sequence[CrashGroup]) -> None:
        try:
            async with httpx.AsyncClient(timeout=_timeout_s, headers=headers) as http:
                for group in groups[:events_max]:
                    (await http.post(url, content=envelope(group))).raise_for_status()
        except httpx.HTTPError as error:
            log.warning("crash.report_failed", error=type(error).__name__)

    return tell


def _target(dsn: str) -> tuple[str, str]:
    parts = urlsplit(dsn)
    path, _, project = parts.path.rpartition("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.username or not project:
        raise BadConfiguration("CHATTY_SENTRY_DSN: must be https://key@host/project, as Sentry shows it")
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{path}/api/{project}/envelope/", parts.username


def envelope(group: CrashGroup) -> bytes:
    """Three lines of JSON: of the envelope, of its one item, the event."""
    event_id = secrets.token_hex(16)
    lines: list[dict[str, Any]] = [{"event_id": event_id}, {"type": "event"}, _event(group, event_id)]
    return b"\n".join(msgspec.json.encode(line) for line in lines)


def _event(group: CrashGroup, event_id: str) -> dict[str, Any]:
    exception = {
        "type": group.place.kind,
        "module": group.place.module,
        "stacktrace": {"frames": [_frame(frame) for frame in group.frames]},
    }
    return {
        "event_id": event_id,
        "timestamp": group.last_seen_ms / 1000,
        "platform": "python",
        "level": "error",
        "release": f"chatty@{group.release}",
        "fingerprint": [group.place.id],
        "transaction": f"{group.place.module}.{group.place.function}",
        "tags": {"met_in": group.met_in},
        "extra": {"count": group.count},
        "exception": {"values": [exception]},
    }


def _frame(frame: str) -> dict[str, Any]:
    name, _, line = frame.rpartition(":")
    return {"function": name, "lineno": int(line), "in_app": name.startswith("chatty.")}
