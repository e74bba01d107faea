"""Settings: what an operator may choose, from `CHATTY_*` variables and `chatty.toml`.

A variable wins over the file. The file is the one that `CHATTY_CONFIG` names, otherwise `chatty.toml` in the working
directory if there is one. A secret may stand in a file of its own: `CHATTY_DATABASE_URL_FILE` instead of
`CHATTY_DATABASE_URL`. A name that nobody knows is refused, so that a typing error does not silently leave a default in
force.

What is wrong is told in a ValueError: the setting's name and the rule it breaks, never the value. Constants of the
protocol are no settings; they stand in `chatty.wire.limits`.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import TomlConfigSettingsSource as TomlSource

_PREFIX = "CHATTY_"
_TESTS_PREFIX = "CHATTY_TEST_"  # belongs to the test suite, which starts servers in its own environment
_SECRETS = ("database_url", "master_key")
_SERVER_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?")

_LIMIT = "limit_"  # what a setting of a limiter begins with; the rest is the limiter's name
_RATE = re.compile(r"([1-9][0-9]{0,8}) per (second|minute|hour|day)(?:, burst ([1-9][0-9]{0,8}))?")
derivation_memory_bytes = range(67_108_864, 1_073_741_824 + 1)  # what clients accept (crypto/passwords.py)
derivation_passes = range(2, 16 + 1)
_DERIVATION = re.compile(r"([1-9][0-9]{0,10})/([1-9][0-9]{0,2})")
_PERIODS_S = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


_QUOTA_PREFIX = "quota_"
_QUOTA = re.compile(r"([1-9][0-9]{0,8})((?:, [a-z]+ [1-9][0-9]{0,8})*)")
_QUOTA_OF_ROLE = re.compile(r", ([a-z]+) ([0-9]+)")


class Rate(NamedTuple):
    """A token bucket: it holds up to `burst` and gains `per_s` each second."""

    burst: float
    per_s: float


OFF = Rate(burst=math.inf, per_s=0.0)


def parse_rate(text: str) -> Rate:
    """`60 per minute, burst 120`; without a burst that is the count; `off`. Raises: ValueError."""
    if text == "off":
        return OFF
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError("must be such as '60 per minute', '60 per minute, burst 120', or off")
    count = int(found[1])
    return Rate(burst=float(found[3] or count), per_s=count / _PERIODS_S[found[2]])


class Quota(NamedTuple):
    """A count for every role but those of by_role."""

    usual: int
    by_role: Mapping[str, int]

    def of(self, role: str) -> int:
        return self.by_role.get(role, self.usual)


def parse_quota(text: str) -> Quota:
    """`20`, or `20, bot 2, admin 100`. Raises: ValueError."""
    found = _QUOTA.fullmatch(text)
    if found is None:
        raise ValueError("must be a count, perhaps with others for some roles, such as '20, bot 2, admin 100'")
    by_role = {role: int(count) for role, count in _QUOTA_OF_ROLE.findall(found[2])}
    return Quota(usual=int(found[1]), by_role=by_role)


def parse_derivations(text: str) -> list[tuple[int, int]]:
    """(memory in bytes, passes), separated by commas: `67108864/3`. Raises: ValueError, also for what clients refuse."""
    parts = [_DERIVATION.fullmatch(part.strip()) for part in text.split(",")]
    found = [(int(part[1]), int(part[2])) for part in parts if part is not None]
    if len(found) != len(parts):
        raise ValueError("must be bytes/passes, separated by commas, such as 67108864/3")
    if any(
        memory_bytes not in derivation_memory_bytes or passes not in derivation_passes for memory_bytes, passes in found
    ):
        raise ValueError("clients refuse less than 64 MiB or 2 passes, and more than 1 GiB or 16 passes")
    return found


def parse_networks(text: str) -> list[IPv4Network | IPv6Network]:
    """Addresses and networks, separated by commas. Raises: ValueError."""
    try:
        return [ip_network(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError("must be addresses and networks, such as 127.0.0.1, 10.0.0.0/8") from None


def _checked_rate(text: str) -> str:
    parse_rate(text)
    return text


def _checked_quota(text: str) -> str:
    parse_quota(text)
    return text


def _checked_derivations(text: str) -> str:
    parse_derivations(text)
    return text


def _checked_networks(text: str) -> str:
    parse_networks(text)
    return text


RateText = Annotated[str, AfterValidator(_checked_rate)]
QuotaText = Annotated[str, AfterValidator(_checked_quota)]
Networks = Annotated[str, AfterValidator(_checked_networks)]
Derivations = Annotated[str, AfterValidator(_checked_derivations)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1024)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """One frozen value for the process. Made directly it reads nothing; `load_settings()` reads."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=_PREFIX, env_ignore_empty=True, hide_input_in_errors=True
    )

    # Where things are
    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL, as postgresql://…; without it the server runs its own in the data directory.",
    )
    database_url_file: Path | None = Field(default=None, description="File that holds the database URL, in its place.")
    data_dir: Path = Field(
        default=Path(".chatty"), description="Directory for keys, blobs, the admin socket and the embedded database."
    )
    master_key: SecretStr | None = Field(
        default=None,
        description="Key that seals the other keys: 32 bytes as base64; made in the data directory if unset.",
    )
    master_key_file: Path | None = Field(default=None, description="File that holds the master key, in its place.")
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65_535, description="TCP port to listen on; 0 takes a free one.")
    public_origin: str = Field(
        default="http://127.0.0.1:8000", description="Scheme, host and port under which clients reach the server."
    )
    server_name: str = Field(
        default="localhost",
        description="Name after the colon in user ids (@ann:localhost); fixed once there are accounts.",
    )
    registration: Literal["closed", "invite", "approval", "open"] | None = Field(
        default=None,
        description="Who may register: closed, invite, approval or open; unset: open with the embedded database, else closed.",
    )
    reserved_names: str = Field(
        default="", description="Names that nobody may take, separated by commas, beside those that are built in."
    )
    registration_requests_max: Count = Field(default=1_000, description="Applications that wait for approval, count.")

    trusted_proxies: Networks = Field(
        default="",
        description="Addresses and networks of proxies whose X-Forwarded-For and X-Request-Id are believed, separated by commas.",
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="One JSON object a line, or text for a person."
    )

    sentry_dsn: SecretStr | None = Field(
        default=None,
        description="Sentry that is told where the server crashed, as https://key@host/project; unset: none.",
    )

    # Database
    pool_connections_max: Count = Field(default=8, description="Connections to PostgreSQL, count.")
    pool_wait_timeout_s: Seconds = Field(default=5.0, description="Longest wait for a connection, seconds.")
    pool_waiting_max: Count = Field(
        default=256, description="Requests that may wait for a connection, count; more are refused."
    )
    database_statement_timeout_s: Seconds = Field(
        default=10.0, description="Longest run of one SQL statement, seconds."
    )

    # Sockets and requests
    frame_bytes_max: Bytes = Field(
        default=262_144, description="Largest WebSocket message, bytes; larger closes with 1009."
    )
    body_bytes_max: Bytes = Field(default=1_048_576, description="Largest body of an HTTP request, bytes.")
    outbox_bytes_max: Bytes = Field(
        default=1_048_576,
        description="Events that may wait for one slow reader, bytes; beyond it the reader must resync.",
    )
    outbox_write_timeout_s: Seconds = Field(
        default=30.0, description="Longest time one write to a socket may take before it is closed, seconds."
    )
    hello_timeout_s: Seconds = Field(default=10.0, description="Time from opening a socket to its hello, seconds.")
    direct_path: Literal["auto", "off"] = Field(
        default="auto",
        description="Whether sockets are served past Hypercorn's frame handling where that is possible: auto, off.",
    )
    heartbeat_interval_s: Seconds = Field(default=30.0, description="Pause between heartbeats on a socket, seconds.")
    tcp_user_timeout_s: Seconds = Field(
        default=30.0, description="Time after which the kernel gives up a peer that takes nothing, seconds."
    )

    # Accounts
    access_token_lifetime_s: Annotated[float, Field(gt=0, le=600)] = Field(
        default=600.0, description="Lifetime of an access token, seconds; at most 600."
    )
    refresh_idle_lifetime_s: Seconds = Field(
        default=30 * 86_400.0, description="Time after which an unused refresh token ends, seconds."
    )
    refresh_absolute_lifetime_s: Seconds = Field(
        default=365 * 86_400.0, description="Time after log-in at which refreshing ends, used or not, seconds."
    )
    step_up_lifetime_s: Seconds = Field(
        default=600.0,
        description="Time after a log-in or step-up within which dangerous acts need no new one, seconds.",
    )
    admin_networks: Networks = Field(
        default="", description="Networks from which admins may act over HTTP, separated by commas; empty: any."
    )
    login_free_count: Count = Field(
        default=10, description="Failed log-ins for one account from one address before the next must wait, count."
    )
    login_delay_max_s: Seconds = Field(
        default=900.0, description="Longest wait between failed log-ins, seconds; it doubles from one second on."
    )
    second_factor_free_count: Count = Field(
        default=5, description="Wrong second factors of one account before the next code must wait, count."
    )
    second_factor_delay_max_s: Seconds = Field(
        default=3_600.0, description="Longest wait between wrong codes, seconds; it doubles from one second on."
    )
    passkey_rp_id: str = Field(
        default="",
        description="Domain that passkeys belong to, the public origin's or one above it; empty: the public origin's.",
    )
    key_derivations: Derivations = Field(
        default="67108864/3",
        description="What clients do to a password with Argon2id: bytes/passes, separated by commas; the first is for new ones.",
    )
    signing_key_rotation_days: Days = Field(
        default=90.0, description="Age at which the key that signs access tokens gives way to a new one, days."
    )
    refresh_key_rotation_days: Days = Field(
        default=90.0, description="Age at which the key that makes refresh tokens gives way to a new one, days."
    )
    nonce_key_rotation_days: Days = Field(
        default=30.0, description="Age at which the key that makes nonces gives way to a new one, days."
    )
    checkpoint_key_rotation_days: Days = Field(
        default=365.0, description="Age at which the key that signs rooms' checkpoints gives way to a new one, days."
    )
    audit_key_rotation_days: Days = Field(
        default=365.0, description="Age at which the key that signs the audit log gives way to a new one, days."
    )
    data_key_rotation_days: Days = Field(
        default=365.0,
        description="Age at which the key that seals secrets in the database gives way to a new one, days.",
    )
    master_key_days_max: Days = Field(
        default=730.0, description="Age of the master key from which health warns; it is replaced by a command, days."
    )
    key_prepare_s: Annotated[float, Field(ge=1, le=86_400)] = Field(
        default=60.0, description="Time from making a key to its first use, so that all nodes know it, seconds."
    )
    revocation_poll_interval_s: Seconds = Field(
        default=0.5, description="Pause between looks for tokens and devices revoked elsewhere, seconds."
    )

    # How often one may ask: a token bucket each, in memory
    limit_requests_address: RateText = Field(
        default="200 per second, burst 4000", description="HTTP requests from one address."
    )
    limit_requests_account: RateText = Field(
        default="200 per second, burst 4000", description="HTTP requests of one account."
    )
    limit_requests_device: RateText = Field(
        default="100 per second, burst 2000", description="HTTP requests of one device."
    )
    limit_requests_route: RateText = Field(
        default="50 per second, burst 1000", description="HTTP requests of one device for one route."
    )
    limit_sockets_address: RateText = Field(
        default="50 per second, burst 2000", description="WebSockets opened from one address."
    )
    limit_sends_device: RateText = Field(
        default="1000 per second, burst 20000", description="Messages sent by one device, over WebSocket and HTTP."
    )
    limit_frames_device: RateText = Field(
        default="500 per second, burst 10000", description="Other requests of one device on its WebSocket."
    )

    limit_typing_device: RateText = Field(
        default="5 per second, burst 50", description="Typing notices of one device, beside the limit of all requests."
    )
    limit_reads_device: RateText = Field(
        default="50 per second, burst 500", description="Read cursors of one device, beside the limit of all requests."
    )
    limit_presence_device: RateText = Field(
        default="1 per second, burst 30",
        description="Presence requests of one device, beside the limit of all requests.",
    )

    limit_logins_address: RateText = Field(
        default="60 per minute, burst 600", description="Failed log-ins from one address."
    )
    limit_registrations_address: RateText = Field(
        default="60 per hour, burst 200", description="Registrations tried from one address."
    )
    limit_registrations_token: RateText = Field(
        default="60 per minute, burst 200", description="Registrations tried with one invitation."
    )
    limit_registrations_server: RateText = Field(
        default="1000 per day", description="Accounts made without an invitation where registration is open."
    )
    limit_lookups_account: RateText = Field(
        default="10 per second, burst 20000",
        description="Users that one account looks up by name: in key queries, invitations, direct rooms and the like.",
    )
    limit_exports_account: RateText = Field(default="10 per day", description="Exports of one account's own data.")

    # The audit log
    audit_head_interval_s: Seconds = Field(
        default=300.0, description="Longest time without a new signed head of the audit log, seconds."
    )
    message_retention_days: Annotated[int, Field(ge=0, le=3_660)] = Field(
        default=0,
        description="Time after which messages are dropped from all rooms, days; 0: never. A room may have a shorter one.",
    )
    address_retention_days: Annotated[float, Field(ge=1, le=28)] = Field(
        default=28.0, description="Time after which addresses are erased from the audit log, days; at most 28."
    )

    # Background jobs
    job_failures_max: Annotated[int, Field(ge=1, le=100)] = Field(
        default=8, description="Failures in a row after which a background job stops until it is resumed, count."
    )
    job_retry_delay_s: Seconds = Field(
        default=5.0, description="Pause after a background job's first failure, seconds; it doubles, up to ten minutes."
    )

    # Backups
    backup_interval_s: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Time between two backups that the server makes by itself, seconds; 0: it makes none."
    )
    backup_dir: Path | None = Field(
        default=None, description="Directory of the archives; `backups` in the data directory if unset."
    )
    backups_kept: Count = Field(
        default=7, description="Archives that stay when the server has made another one by itself, the newest, count."
    )
    backup_recipient: str = Field(
        default="",
        description="Operator's public key for which archives are sealed, as base64; under the master key if unset.",
    )

    # What one account, device or room may hold
    quota_devices: QuotaText = Field(
        default="20", description="Living devices of one account, count; others by role as '20, bot 2, admin 100'."
    )
    quota_rooms: QuotaText = Field(default="1000", description="Rooms that one account may create, count; by role.")
    quota_room_members: QuotaText = Field(
        default="1000", description="Members of one room, count; by the role of who created it."
    )
    quota_message_bytes: QuotaText = Field(
        default="65536", description="Ciphertext of one message, bytes; by role; at most 65536."
    )
    quota_blocks: QuotaText = Field(default="1000", description="Users that one account may block, count; by role.")
    mailbox_rows_per_sender_max: Count = Field(
        default=1_000, description="To-device messages of one sender that may wait for one recipient, count."
    )
    mailbox_rows_max: Count = Field(
        default=20_000, description="To-device messages that may wait for one device, count."
    )
    one_time_keys_max: Annotated[int, Field(ge=1, le=50)] = Field(
        default=50, description="One-time keys kept for each device and algorithm, count; at most 50."
    )
    rooms_live_max: Count = Field(default=10_000, description="Rooms held in memory at once, count.")
    sessions_max: Count = Field(default=10_000, description="Open WebSockets, count.")
    hellos_max: Count = Field(
        default=8, description="Hellos that are worked on at once, count; the others wait in order."
    )
    reconnects_per_s: Count = Field(
        default=250, description="How many sockets a second a stopping server asks to come back, count."
    )

    # Writing and delivering
    append_timeout_s: Seconds = Field(
        default=5.0, description="Longest wait for a message to be committed, seconds; then its sender must ask again."
    )
    journal_batch_max: Count = Field(default=256, description="Messages in one commit, count.")
    journal_queue_max: Count = Field(
        default=4_096, description="Messages that may wait for a commit, count; more are refused."
    )
    compare_interval_s: Seconds = Field(
        default=2.0, description="Pause between comparisons of what sockets were sent with what is stored, seconds."
    )
    presence: bool = Field(default=True, description="Whether users may see who else is there.")
    presence_interval_s: Seconds = Field(
        default=2.0, description="Pause between two tellings of one user's presence, seconds."
    )
    presence_idle_after_s: Seconds = Field(
        default=300.0, description="Time without an act after which a connected user is idle, seconds."
    )
    receipts_interval_s: Seconds = Field(
        default=1.0, description="Pause between two writings of one read cursor, seconds."
    )
    drain_notice_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Time for which a stopping server says that it is not ready and still serves, seconds.",
    )
    drain_timeout_s: Seconds = Field(
        default=5.0, description="Longest orderly stop, seconds; then what is left is cut off."
    )

    @property
    def key_rotation_days(self) -> dict[str, float]:
        """By the kind of the key."""
        return {
            "signing": self.signing_key_rotation_days,
            "data": self.data_key_rotation_days,
            "checkpoint": self.checkpoint_key_rotation_days,
            "audit": self.audit_key_rotation_days,
            "refresh": self.refresh_key_rotation_days,
            "nonce": self.nonce_key_rotation_days,
        }

    @property
    def master_key_path(self) -> Path | None:
        """The file that the master key is read from; None: the key itself stands in a setting."""
        if self.master_key_file is not None:
            return self.master_key_file
        return None if self.master_key is not None else self.data_dir / "master.key"

    @property
    def is_embedded(self) -> bool:
        """Whether the server runs its own PostgreSQL."""
        return self.database_url is None

    @property
    def registration_mode(self) -> Literal["closed", "invite", "approval", "open"]:
        return self.registration or ("open" if self.is_embedded else "closed")

    @property
    def relying_party_id(self) -> str:
        """Of passkeys (WebAuthn): a domain."""
        return self.passkey_rp_id or self._origin_host

    @property
    def _origin_host(self) -> str:
        return urlsplit(self.public_origin).hostname or ""

    @property
    def rates(self) -> Mapping[str, Rate]:
        """Of each limiter, by its name."""
        return {name: parse_rate(getattr(self, _LIMIT + name)) for name in limiters()}

    @property
    def quotas(self) -> Mapping[str, Quota]:
        """By their names."""
        names = [name for name in type(self).model_fields if name.startswith(_QUOTA_PREFIX)]
        return {name.removeprefix(_QUOTA_PREFIX): parse_quota(getattr(self, name)) for name in names}

    @property
    def operator_networks(self) -> list[IPv4Network | IPv6Network]:
        return parse_networks(self.admin_networks)

    @property
    def proxy_networks(self) -> list[IPv4Network | IPv6Network]:
        return parse_networks(self.trusted_proxies)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        found = {name: _read_secret(name, values) for name in _SECRETS if values.get(f"{name}_file") is not None}
        return {**values, **found}

    @field_validator("database_url")
    @classmethod
    def _is_postgresql_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("public_origin")
    @classmethod
    def _is_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or value != f"{parts.scheme}://{parts.netloc}":
            raise ValueError("must be a scheme, a host and perhaps a port, such as https://chat.example.org")
        return value

    @field_validator("server_name")
    @classmethod
    def _is_server_name(cls, value: str) -> str:
        if not _SERVER_NAME.fullmatch(value):
            raise ValueError("must be a host name in small letters, such as chat.example.org")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.outbox_bytes_max < self.frame_bytes_max:
            raise ValueError("outbox_bytes_max must be at least frame_bytes_max: one frame must fit")
        if not f".{self._origin_host}".endswith(f".{self.relying_party_id}"):
            raise ValueError("passkey_rp_id must be the public origin's domain or one above it")
        if self.refresh_absolute_lifetime_s < self.refresh_idle_lifetime_s:
            raise ValueError("refresh_absolute_lifetime_s must be at least refresh_idle_lifetime_s")
        if self.journal_queue_max < self.journal_batch_max:
            raise ValueError("journal_queue_max must be at least journal_batch_max")
        return self

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        return (sources["init_settings"],)


class _FromOutside(Settings):
    """The same settings, read: arguments win over variables, variables over the file."""

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        return (sources["init_settings"], EnvSettingsSource(cls), TomlSource(cls, toml_file=_find_file()))


def load_settings(**chosen: Any) -> Settings:
    """Read the settings of this process; `chosen` (options of a command line) win over all.

    Raises: ValueError with a line for each wrong setting: its name and what is wrong, never its value.
    """
    _refuse_unknown_variables(os.environ)
    try:
        return _FromOutside(**chosen)
    except ValidationError as error:
        raise ValueError("\n".join(_explain(error))) from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{_find_file()}: {getattr(error, 'strerror', None) or error}") from None


def show_settings(settings: Settings, *, is_data_dir_chosen: bool = False) -> list[dict[str, Any]]:
    """Each setting as load_settings() read it in this process: its variable, value and source. Secrets are "hidden"."""
    from_file = TomlSource(_FromOutside, toml_file=_find_file())()
    from_variables = EnvSettingsSource(_FromOutside)()
    shown = []
    for name in Settings.model_fields:
        variable, value = _PREFIX + name.upper(), getattr(settings, name)
        if name == "data_dir" and is_data_dir_chosen and name not in from_variables:
            source = "option --data-dir"
        elif name in from_variables:
            source = f"variable {variable}"
        elif name in from_file:
            source = f"file {_find_file()}"
        elif name in _SECRETS and getattr(settings, f"{name}_file") is not None:
            source = f"file {getattr(settings, f'{name}_file')}"
        else:
            source = "default"
        shown.append({"setting": variable, "value": _shown_value(value), "source": source})
    return shown


def _shown_value(value: Any) -> Any:
    match value:
        case SecretStr():
            return "hidden"
        case Path():
            return str(value)
        case _:
            return value


def wrong_settings(**chosen: Any) -> list[dict[str, str]]:
    """What load_settings() refuses: the variable (empty: several that do not fit together) and the rule, never the value."""
    try:
        load_settings(**chosen)
    except ValueError as error:
        lines = [line.partition(": ") for line in str(error).splitlines()]
        return [{"setting": name if rule else "", "problem": rule or name} for name, _, rule in lines]
    return []


def describe_settings() -> Iterator[tuple[str, str, str]]:
    """Variable, default and description of each setting, in the order of this file; documentation is made from it."""
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else str(field.default)
        yield _PREFIX + name.upper(), default, field.description or ""


def limiters() -> Mapping[str, str]:
    """Each limiter's name and what it counts."""
    fields = Settings.model_fields.items()
    return {name.removeprefix(_LIMIT): field.description or "" for name, field in fields if name.startswith(_LIMIT)}


def _find_file() -> Path | None:
    named = os.environ.get(f"{_PREFIX}CONFIG")
    if named is None:
        return Path("chatty.toml")  # a missing one is no error
    if not Path(named).is_file():
        raise ValueError(f"{_PREFIX}CONFIG: there is no such file")
    return Path(named)


def _read_secret(name: str, values: Mapping[str, Any]) -> str:
    if values.get(name) is not None:
        raise ValueError(f"{name} and {name}_file are both set: choose one")
    try:
        return Path(values[f"{name}_file"]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"{name}_file cannot be read: {reason}") from None


def _refuse_unknown_variables(environ: Iterable[str]) -> None:
    known = {_PREFIX + name.upper() for name in Settings.model_fields} | {f"{_PREFIX}CONFIG"}
    unknown = sorted(
        name
        for name in environ
        if name.startswith(_PREFIX) and not name.startswith(_TESTS_PREFIX) and name not in known
    )
    if unknown:
        raise ValueError("\n".join(f"{name}: no such setting{_closest(name, known)}" for name in unknown))


def _closest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            reason = f"no such setting{_closest(name, Settings.model_fields)}"
        yield f"{_PREFIX}{name.upper()}: {reason}" if name else reason
