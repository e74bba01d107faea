"""What `chatty-admin doctor` finds, as rules: from what was read to findings, each with how to mend it. No I/O, no clock.

What mends ends with a command to type: the one that does it, or the one that tells whether it is done.
"""

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from chatty.config import Settings
from chatty.store.diagnosis import DatabaseFacts, postgres_version_min

clock_off_s_warned, clock_off_s_failed = 0.5, 5.0
certificate_days_warned, certificate_days_failed = 21.0, 0.0
disk_share_warned, disk_share_failed = 0.10, 0.03
disk_bytes_warned, disk_bytes_failed = 2 * 1024**3, 256 * 1024**2
spare_connections_min = 5
_look = "; then: chatty-admin doctor"
_loopback = frozenset({"localhost", "127.0.0.1", "::1"})

State = Literal["ok", "warning", "failed", "skipped"]
# Setting of PostgreSQL: what it must be, how bad it is if not, and why.
_WANTED: Mapping[str, tuple[str, State, str]] = {
    "fsync": ("on", "failed", "a crash of the machine loses messages that were acknowledged"),
    "full_page_writes": ("on", "failed", "a crash of the machine can tear pages"),
    "server_encoding": ("UTF8", "failed", "texts are UTF-8"),
    "transaction_read_only": ("off", "failed", "it is a standby, or read-only by default"),
    "autovacuum": ("on", "failed", "tables grow without end"),
    "data_checksums": ("on", "warning", "damage on the disk is not noticed"),
    "log_error_verbosity": ("terse", "warning", "the database's log may hold keys of rows"),
    "log_statement": ("none", "warning", "the database's log holds statements"),
    "log_min_duration_statement": ("-1", "warning", "slow statements are logged with their values"),
}
_UNLOGGED_VALUES = ("log_parameter_max_length", "0")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """check: what was looked at. detail: what was found. mend: what to do, a command last; empty when all is well."""

    check: str
    state: State
    detail: str
    mend: str = ""


def judge_configuration(settings: Settings) -> Iterable[Finding]:
    origin = urlsplit(settings.public_origin)
    is_public = origin.hostname not in _loopback
    yield Finding(check="configuration", state="ok", detail="every setting is known and within its bounds")
    if is_public and settings.registration == "open":
        yield Finding(
            check="configuration",
            state="warning",
            detail="anybody who reaches the server may register",
            mend="set CHATTY_REGISTRATION to invite or approval, unless it is meant so; then: chatty-admin config check",
        )
    if is_public and settings.is_embedded:
        yield Finding(
            check="configuration",
            state="warning",
            detail="the embedded database serves a public server",
            mend=f"set CHATTY_DATABASE_URL_FILE to a PostgreSQL that is cared for, as docs/operations.md says{_look}",
        )
    if is_public and settings.server_name in _loopback:
        yield Finding(
            check="configuration",
            state="failed",
            detail="user ids end in :localhost, for ever once there are accounts",
            mend="set CHATTY_SERVER_NAME before the first account is made; then: chatty-admin config check",
        )


def judge_clock(*, off_s: float) -> Finding:
    """off_s: ours less the database's."""
    detail = f"{abs(off_s):.2f} s {'ahead of' if off_s > 0 else 'behind'} the database's"
    if abs(off_s) <= clock_off_s_warned:
        return Finding(check="clock", state="ok", detail=detail)
    state: State = "failed" if abs(off_s) > clock_off_s_failed else "warning"
    mend = "run a time service on both machines: apt-get install chrony"
    return Finding(check="clock", state=state, detail=detail, mend=mend)


def judge_origin(origin: str) -> Finding | None:
    """None: it has a certificate to look at."""
    parts = urlsplit(origin)
    if parts.scheme == "https":
        return None
    if parts.hostname in _loopback:
        return Finding(check="tls", state="ok", detail=f"{origin} is this machine alone")
    mend = (
        "put a proxy with a certificate in front and set CHATTY_PUBLIC_ORIGIN to https://…, as docs/operations.md says"
    )
    return Finding(check="tls", state="failed", detail=f"{origin} carries tokens in clear", mend=mend + _look)


def judge_certificate(origin: str, *, days_left: float) -> Finding:
    detail = f"the certificate of {origin} is good for {days_left:.0f} days"
    if days_left > certificate_days_warned:
        return Finding(check="tls", state="ok", detail=detail)
    state: State = "failed" if days_left <= certificate_days_failed else "warning"
    return Finding(check="tls", state=state, detail=detail, mend="renew it where it is kept, mostly: certbot renew")


def judge_no_certificate(origin: str, *, reason: str, is_untrusted: bool) -> Finding:
    """Reached and not believed, or not reached at all, which may be the network's way of this machine."""
    if is_untrusted:
        mend = f"serve the whole chain of a certificate for this name that clients trust{_look}"
        return Finding(check="tls", state="failed", detail=f"{origin}: {reason}", mend=mend)
    mend = f"look from elsewhere, then at the proxy, DNS and the firewall{_look}"
    return Finding(check="tls", state="warning", detail=f"{origin} cannot be reached: {reason}", mend=mend)


def judge_database(facts: DatabaseFacts, settings: Settings) -> Iterable[Finding]:
    yield _judge_version(facts)
    wrong = [finding for finding in _judge_settings(facts) if finding is not None]
    yield from wrong or [Finding(check="postgresql_settings", state="ok", detail="as they should be")]
    if facts.is_remote and not facts.is_encrypted:
        mend = f"add sslmode=verify-full to the database URL{_look}"
        yield Finding(check="postgresql_tls", state="failed", detail="reached over a network without TLS", mend=mend)
    if not facts.may_create_schemas:
        mend = f"GRANT CREATE ON DATABASE … TO the server's user{_look}"
        yield Finding(check="postgresql_rights", state="failed", detail="the user may not create schemas", mend=mend)
    yield _judge_connections(facts, settings)


def _judge_version(facts: DatabaseFacts) -> Finding:
    if facts.version_number // 10_000 >= postgres_version_min:
        return Finding(check="postgresql_version", state="ok", detail=facts.version)
    mend = f"upgrade PostgreSQL to {postgres_version_min} or newer{_look}"
    return Finding(check="postgresql_version", state="failed", detail=f"{facts.version} is too old", mend=mend)


def _judge_settings(facts: DatabaseFacts) -> Iterable[Finding | None]:
    name, value = _UNLOGGED_VALUES
    logs_values = facts.settings.get(name) != value
    for name, (wanted, state, why) in _WANTED.items():
        found = facts.settings.get(name)
        if found in (wanted, None) or (name == "log_min_duration_statement" and not logs_values):
            continue
        mend = f"ALTER SYSTEM SET {name} = {wanted}; SELECT pg_reload_conf()"
        mend = {"data_checksums": "stop PostgreSQL and run pg_checksums --enable"}.get(name, mend)
        mend = {"server_encoding": "make the database anew with ENCODING 'UTF8'"}.get(name, mend)
        yield Finding(check="postgresql_settings", state=state, detail=f"{name} is {found}: {why}", mend=mend + _look)
    if facts.settings.get("synchronous_commit") == "off":
        mend = f"ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf(){_look}"
        detail = "synchronous_commit is off: acknowledged messages can be lost"
        yield Finding(check="postgresql_settings", state="failed", detail=detail, mend=mend)


def _judge_connections(facts: DatabaseFacts, settings: Settings) -> Finding:
    needed = settings.pool_connections_max + spare_connections_min
    most = int(facts.settings.get("max_connections", "0"))
    detail = f"{facts.connections_count} of {most} in use; this server may take {needed}"
    if most >= needed:
        return Finding(check="postgresql_connections", state="ok", detail=detail)
    mend = (
        f"ALTER SYSTEM SET max_connections = {2 * needed} and restart PostgreSQL, or lower CHATTY_POOL_CONNECTIONS_MAX"
        f"{_look}"
    )
    return Finding(check="postgresql_connections", state="failed", detail=detail, mend=mend)


def judge_schema(*, found: int, compatible_from: int, code: int) -> Finding:
    """Versions of the schema: the database's, the oldest code's that may run on it, ours."""
    if found == code:
        return Finding(check="migrations", state="ok", detail=f"version {found}, none is missing")
    if found < code:
        detail = f"version {found}; {code - found} migrations are missing"
        return Finding(check="migrations", state="failed", detail=detail, mend="chatty-admin db upgrade")
    if compatible_from <= code:
        detail = f"version {found} is newer than this code's {code}, which may run on it"
        return Finding(
            check="migrations", state="warning", detail=detail, mend=f"install the newer Chatty here too{_look}"
        )
    detail = f"version {found} is too new for this code's {code}"
    return Finding(check="migrations", state="failed", detail=detail, mend=f"install a newer Chatty{_look}")


def judge_keys(ages_s: Mapping[str, float], *, rotation_days: Mapping[str, float]) -> Iterable[Finding]:
    """ages_s: of the newest key of each purpose. rotation_days: by kind; they rotate by themselves: an old one says that they do
    not. What has none there is never replaced.
    """
    old = False
    for purpose, age_s in ages_s.items():
        kind, days = purpose.removesuffix("_key"), age_s / 86_400
        if kind in rotation_days and days > 1.1 * rotation_days[kind] + 1:
            old = True
            mend = f"chatty-admin keys rotate {kind}"
            yield Finding(check="key_ages", state="warning", detail=f"{purpose} is {days:.0f} days old", mend=mend)
    if not old:
        oldest = max(ages_s.values(), default=0.0) / 86_400
        yield Finding(check="key_ages", state="ok", detail=f"the oldest is {oldest:.0f} days old")


def judge_master_key(age_s: float, *, days_max: float) -> Finding:
    """It is never replaced by itself."""
    days = age_s / 86_400
    if days <= days_max:
        return Finding(check="master_key", state="ok", detail=f"{days:.0f} days old")
    mend = "chatty-admin keys rotate --master"
    return Finding(check="master_key", state="warning", detail=f"the master key is {days:.0f} days old", mend=mend)


def judge_backups(age_s: float | None, *, interval_s: float) -> Finding:
    """age_s: of the newest one of this server; None: there is none. interval_s: 0: the server makes none by itself."""
    mend = "chatty-admin backup create"
    if age_s is None:
        detail = "there is none of this server, and CHATTY_BACKUP_INTERVAL_S is 0"
        if interval_s:
            return Finding(check="backups", state="warning", detail="there is none of this server", mend=mend)
        return Finding(check="backups", state="skipped", detail=detail, mend=mend)
    detail = f"the newest is {age_s / 3_600:.1f} hours old"
    if interval_s and age_s > 2 * interval_s:
        return Finding(check="backups", state="warning", detail=detail, mend=mend)
    return Finding(check="backups", state="ok", detail=detail)


def judge_unreachable(reason: str, *, is_embedded: bool) -> Finding:
    """The database. An embedded one belongs to the account that the server runs under."""
    mend = (
        "be the account that the data directory belongs to" if is_embedded else "start PostgreSQL, or set its URL right"
    )
    return Finding(check="database", state="failed", detail=reason, mend=mend + _look)


def judge_unreadable(check: str, *, file: str, reason: str) -> Finding:
    mend = f"be the account that the server runs under{_look}"
    return Finding(check=check, state="failed", detail=f"{file}: {reason}" if file else reason, mend=mend)


def judge_disk(place: str, *, free_bytes: int, total_bytes: int) -> Finding:
    share = free_bytes / total_bytes if total_bytes else 0.0
    detail = f"{free_bytes / 1024**3:.1f} GiB free of {place}, {share:.0%}"
    mend = "make room, or set CHATTY_MESSAGE_RETENTION_DAYS; what takes it: chatty-admin db size"
    if share < disk_share_failed or free_bytes < disk_bytes_failed:
        return Finding(check="disk", state="failed", detail=detail, mend=mend)
    if share < disk_share_warned or free_bytes < disk_bytes_warned:
        return Finding(check="disk", state="warning", detail=detail, mend=mend)
    return Finding(check="disk", state="ok", detail=detail)


def judge_secret(place: str, *, mode: int, is_directory: bool = False) -> Finding:
    """mode: st_mode of what holds secrets."""
    permissions = stat.S_IMODE(mode)
    if not permissions & 0o077:
        return Finding(check="permissions", state="ok", detail=f"{place} is its owner's alone")
    mend = f"chmod {'700' if is_directory else '600'} {place}"
    detail = f"{place} has mode {permissions:04o}: others on this machine can reach it"
    return Finding(check="permissions", state="failed", detail=detail, mend=mend)
