"""Every domain error, once. Each leaf knows its face on every surface.

`code` is stable and documented in docs/protocol.md; `http_status` is the face on HTTP, `close_code` the one on a WebSocket
when the error ends the connection (4400-4499), `exit_code` the one of the console. `is_retryable` says whether the very same
request may be sent again. `fields()` carries what mends it. web/problems.py turns errors into problem details and error frames,
admin and cli into exit codes; nothing else does.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from chatty.ids import DeviceId, ListVersion, SendNumber, Seq, UserId


class ChattyError(Exception):
    """Root of all domain errors; only leaves are raised."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    close_code: ClassVar[int | None] = None
    exit_code: ClassVar[int] = 1
    is_retryable: ClassVar[bool] = False

    def fields(self) -> dict[str, Any]:
        """What the receiver needs to mend it: JSON values under stable keys."""
        return {}

    @property
    def retry_after_s(self) -> float | None:
        return None


# What was sent is wrong ---------------------------------------------------------------------------------------------


class BadRequest(ChattyError):
    """The bytes are not a valid request: malformed, unknown field, out of range, bad UTF-8, NUL."""

    code = "bad_request"
    http_status = 400


class TooLarge(ChattyError):
    code = "too_large"
    http_status = 413

    def __init__(self, *, limit: str, bytes_max: int) -> None:
        super().__init__(f"larger than {limit}: {bytes_max} bytes")
        self.limit = limit
        self.bytes_max = bytes_max

    def fields(self) -> dict[str, Any]:
        return {"limit": self.limit, "bytes_max": self.bytes_max}


class NotEncrypted(ChattyError):
    """An application message without a ciphertext envelope is refused."""

    code = "not_encrypted"
    http_status = 400


class BadSignature(ChattyError):
    code = "bad_signature"
    http_status = 400


class BadKey(ChattyError):
    """A public key that is malformed, all zero or of low order, or not what its name says."""

    code = "bad_key"
    http_status = 400


class KeyConflict(ChattyError):
    """A one-time key uploaded again under the same id with another value, or a device's keys replaced."""

    code = "key_conflict"
    http_status = 409


class UnsupportedVersion(ChattyError):
    """The WebSocket was opened without one of our subprotocols."""

    code = "unsupported_version"
    http_status = 400
    close_code = 4406


class MethodNotAllowed(ChattyError):
    code = "method_not_allowed"
    http_status = 405


class UnsupportedMediaType(ChattyError):
    code = "unsupported_media_type"
    http_status = 415


# Who is asking ------------------------------------------------------------------------------------------------------


class Unauthenticated(ChattyError):
    """No access token, or one that is malformed, forged or for somebody else."""

    code = "unauthenticated"
    http_status = 401
    close_code = 4401


class InvalidDpopProof(ChattyError):
    """The DPoP proof is missing, malformed, for another request, token or key, or came before."""

    code = "invalid_dpop_proof"
    http_status = 401
    close_code = 4401


class UseDpopNonce(ChattyError):
    """The DPoP proof holds no nonce of ours, or one that is too old: make one with the nonce in the header DPoP-Nonce."""

    code = "use_dpop_nonce"
    http_status = 401
    close_code = 4401


class TokenExpired(ChattyError):
    """The access token's time is over: refresh it."""

    code = "token_expired"
    http_status = 401
    close_code = 4402


class LoginRefused(ChattyError):
    """Unknown name or wrong signature: the two are not told apart."""

    code = "login_refused"
    http_status = 401


class SecondFactorRequired(ChattyError):
    """The password is right, and this user has second factors: the same request again, with one of them.

    factors: "totp", "recovery_code", "passkey", as far as there are any. rp_id, allow_credentials: what WebAuthn needs to know.
    """

    code = "second_factor_required"
    http_status = 401

    def __init__(
        self, *, factors: Sequence[str], rp_id: str, allow_credentials: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(f"show one of: {', '.join(factors)}")
        self.factors = list(factors)
        self.rp_id = rp_id
        self.allow_credentials = [dict(one) for one in allow_credentials]

    def fields(self) -> dict[str, Any]:
        return {"factors": self.factors, "rp_id": self.rp_id, "allow_credentials": self.allow_credentials}


class SecondFactorRefused(ChattyError):
    """The second factor is wrong, was used before, or is not for this very request."""

    code = "second_factor_refused"
    http_status = 401


class RefreshRefused(ChattyError):
    """The refresh token was retired, is another key's, or the log-in session has ended."""

    code = "refresh_refused"
    http_status = 401


class DeviceRevoked(ChattyError):
    """The device, or the log-in session, was ended."""

    code = "device_revoked"
    http_status = 401
    close_code = 4403


class RegistrationClosed(ChattyError):
    """Not without an invitation, or with none; this one is unknown, used up or too old."""

    code = "registration_closed"
    http_status = 403


class ApprovalPending(ChattyError):
    """The application was kept and waits for an admin. Told to nobody but who proves the password."""

    code = "approval_pending"
    http_status = 403


class Forbidden(ChattyError):
    """Known and visible, but this role may not do this."""

    code = "forbidden"
    http_status = 403


class PresenceOff(ChattyError):
    """The server's operator has switched presence off."""

    code = "presence_off"
    http_status = 403


class Outranked(ChattyError):
    """Who acts on somebody, or gives a role, must hold every right of that role and more; owners also act on owners."""

    code = "outranked"
    http_status = 403


class StepUpRequired(ChattyError):
    """The user must prove who they are once more, by POST /v1/step-up; then the same request again."""

    code = "step_up_required"
    http_status = 403

    def __init__(self, *, age_s_max: float) -> None:
        super().__init__(f"the last proof must not be older than {age_s_max:g} s")
        self.age_s_max = age_s_max

    def fields(self) -> dict[str, Any]:
        return {"age_s_max": self.age_s_max}


class DeviceNotVerified(ChattyError):
    """Only a device that the user's other devices vouch for may do this."""

    code = "device_not_verified"
    http_status = 403


class NotFound(ChattyError):
    """There is no such thing, or it is none of your business: the two are not told apart."""

    code = "not_found"
    http_status = 404


class NameTaken(ChattyError):
    """Somebody has this name, or one that looks like it."""

    code = "name_taken"
    http_status = 409


class NameReserved(ChattyError):
    """A name that nobody may take, or one that looks like it."""

    code = "name_reserved"
    http_status = 409


class DeviceIdTaken(ChattyError):
    code = "device_id_taken"
    http_status = 409


# The state is another than the request believes ---------------------------------------------------------------------


class DeviceSetStale(ChattyError):
    """The message was encrypted for an older set of devices. Encrypt anew for `epoch`; the same n may be used."""

    code = "device_set_stale"
    http_status = 409
    is_retryable = False

    def __init__(self, *, epoch: Seq, changed: Mapping[UserId, ListVersion | None]) -> None:
        super().__init__(f"the room's epoch is {epoch}")
        self.epoch = epoch
        self.changed = dict(changed)

    def fields(self) -> dict[str, Any]:
        changed = [{"user": user, "list_version": version} for user, version in sorted(self.changed.items())]
        return {"epoch": self.epoch, "changed": changed}


class SendNumberError(ChattyError):
    """Branch for what is wrong with n; each leaf carries the server's highest n and low."""

    http_status = 409

    def __init__(self, *, highest_n: SendNumber, low: SendNumber) -> None:
        super().__init__(f"highest n {highest_n}, low {low}")
        self.highest_n = highest_n
        self.low = low

    def fields(self) -> dict[str, Any]:
        return {"highest_n": self.highest_n, "low": self.low}


class MessageIdConflict(SendNumberError):
    """(device, n) already names another request."""

    code = "message_id_conflict"


class MessageIdClosed(SendNumberError):
    """n is below low: its outcome was settled on the client's disk and is forgotten here."""

    code = "message_id_closed"


class SendWindowFull(SendNumberError):
    """n is low + 256 or more: settle older requests first."""

    code = "send_window_full"
    is_retryable = True


class CursorBeyondEnd(ChattyError):
    """A read cursor that is beyond the room's newest event: nobody can have read that."""

    code = "cursor_beyond_end"
    http_status = 409

    def __init__(self, *, head_seq: Seq) -> None:
        super().__init__(f"the room ends at {head_seq}")
        self.head_seq = head_seq

    def fields(self) -> dict[str, Any]:
        return {"head_seq": self.head_seq}


class NotAMember(ChattyError):
    """Final: the sender was no member of the room, or its role did not allow this, when the journal held the locks."""

    code = "not_a_member"
    http_status = 403


class ExpiryRefused(ChattyError):
    """Final: the expiry had passed when the journal held the locks, or lay further ahead than a timer may.

    time: the server's, ms since 1970: encrypt anew, with an expiry that counts from then.
    """

    code = "expiry_refused"
    http_status = 409

    def __init__(self, *, time: int) -> None:
        super().__init__("the expiry has passed, or is too far ahead")
        self.time = time

    def fields(self) -> dict[str, Any]:
        return {"time": self.time}


class MessageGone(ChattyError):
    """There is nothing left to delete: the message was deleted, has expired, or went with its sender's account."""

    code = "message_gone"
    http_status = 410


class InvitationVoid(ChattyError):
    """The invitation is not for this user and room, its inviter may not invite, or a later removal ended it."""

    code = "invitation_void"
    http_status = 403


class Banned(ChattyError):
    """Whoever is banned from a room comes in by nothing until somebody lifts the ban."""

    code = "banned"
    http_status = 403


class LinkUnknown(ChattyError):
    """This room has no such link: it is another room's, or nobody's."""

    code = "link_unknown"
    http_status = 403


class LinkExpired(ChattyError):
    code = "link_expired"
    http_status = 403


class LinkUsedUp(ChattyError):
    """As many as it is good for have joined by it."""

    code = "link_used_up"
    http_status = 403


class LinkRevoked(ChattyError):
    """Somebody who may has ended the link before its time."""

    code = "link_revoked"
    http_status = 403


class LastOwner(ChattyError):
    """The last owner of a room cannot leave while others are members; that of the server keeps role and access."""

    code = "last_owner"
    http_status = 409


class ServerNameMismatch(ChattyError):
    """The database belongs to a server of another name: names are part of every signature."""

    code = "server_name_mismatch"

    def __init__(self, *, stored: str, configured: str) -> None:
        super().__init__(f"this database belongs to server {stored!r}; CHATTY_SERVER_NAME says {configured!r}")


# Load, time and the store -------------------------------------------------------------------------------------------


class RetryableError(ChattyError):
    """Branch for what may be sent again unchanged."""

    http_status = 503
    is_retryable = True


class Overloaded(RetryableError):
    """A named bound was reached: nothing was done."""

    code = "overloaded"

    def __init__(self, *, limiter: str, retry_after_s: float) -> None:
        super().__init__(f"{limiter} is full")
        self.limiter = limiter
        self._retry_after_s = retry_after_s

    @property
    def retry_after_s(self) -> float | None:
        return self._retry_after_s

    def fields(self) -> dict[str, Any]:
        return {"limiter": self.limiter}


class RateLimited(Overloaded):
    """The asker's own token bucket is empty."""

    code = "rate_limited"
    http_status = 429


class QuotaExceeded(ChattyError):
    """A bound on what may be kept was reached; trying again without freeing something does not help."""

    code = "quota_exceeded"
    http_status = 403

    def __init__(self, *, quota: str, count_max: int) -> None:
        super().__init__(f"{quota}: at most {count_max}")
        self.quota = quota
        self.count_max = count_max

    def fields(self) -> dict[str, Any]:
        return {"quota": self.quota, "count_max": self.count_max}


class TooManyDevices(QuotaExceeded):
    """The account has as many devices as it may: log in again and name one to end in `replaces`."""

    code = "too_many_devices"

    def __init__(self, *, count_max: int, devices: Collection[Mapping[str, str]]) -> None:
        super().__init__(quota="devices", count_max=count_max)
        self.devices = list(devices)

    def fields(self) -> dict[str, Any]:
        """devices: device, name and last_seen_day of each; told to nobody but who proved the password."""
        return {**super().fields(), "devices": self.devices}


class MailboxQuotaExceeded(QuotaExceeded):
    """The recipient's device mailbox holds too much from this sender: the new row is refused, no old one dropped."""

    code = "mailbox_quota_exceeded"

    def __init__(self, *, quota: str, count_max: int, devices: Collection[DeviceId] = ()) -> None:
        super().__init__(quota=quota, count_max=count_max)
        self.devices = sorted(devices)

    def fields(self) -> dict[str, Any]:
        """devices: those that are full; without them the request would go through."""
        return {**super().fields(), "devices": self.devices}


class BodyTimeout(RetryableError):
    """The body of the HTTP request did not come in time: nothing was done."""

    code = "body_timeout"
    http_status = 408


class StoreUnavailable(RetryableError):
    """PostgreSQL cannot be reached; nothing was done."""

    code = "store_unavailable"
    exit_code = 3

    def __init__(self, reason: str) -> None:
        super().__init__(reason)

    @property
    def retry_after_s(self) -> float | None:
        return 1.0


class OutcomeUnknown(RetryableError):
    """It may or may not have been committed: the same request again settles it."""

    code = "outcome_unknown"
    exit_code = 3

    @property
    def retry_after_s(self) -> float | None:
        return 1.0


class DataKeyUnknown(RetryableError):
    """A secret is sealed under a data key that this process has not read yet; it reads them every few seconds."""

    code = "data_key_unknown"

    @property
    def retry_after_s(self) -> float | None:
        return 1.0


class RequestQuarantined(ChattyError):
    """The request crashed the actor that handled it twice; it was put aside and logged."""

    code = "request_quarantined"
    http_status = 500


class InternalError(ChattyError):
    """A fault of ours; the request id leads to the log."""

    code = "internal_error"
    http_status = 500


class ShuttingDown(RetryableError):
    """The server is draining: connect again after the time named."""

    code = "shutting_down"
    close_code = 4410

    def __init__(self, reason: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self._retry_after_s = retry_after_s

    @property
    def retry_after_s(self) -> float | None:
        return self._retry_after_s


class SchemaTooOld(ChattyError):
    code = "schema_too_old"
    exit_code = 1

    def __init__(self, *, found: int, needed: int) -> None:
        super().__init__(
            f"the database's schema is version {found}, this code needs {needed}: run 'chatty-admin db upgrade'"
        )


class SchemaTooNew(ChattyError):
    code = "schema_too_new"
    exit_code = 1

    def __init__(self, *, found: int, compatible_from: int, code_version: int) -> None:
        super().__init__(
            f"the database's schema is version {found} and may be used by code from version {compatible_from}; "
            f"this code is version {code_version}: install a newer Chatty"
        )


class MigrationFailed(ChattyError):
    code = "migration_failed"

    def __init__(self, *, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}; nothing of it was kept")


class BackfillFailed(ChattyError):
    """A backfill was cut off; what was done by then is kept."""

    code = "backfill_failed"

    def __init__(self, *, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}; the next upgrade goes on where it was")


class DatabaseInUse(ChattyError):
    """Somebody else is connected to the database, and a server would find its tables gone."""

    code = "database_in_use"

    def __init__(self, *, connections_count: int) -> None:
        super().__init__(f"others hold {connections_count} connections to the database: stop them first")


class DataDirectoryInUse(ChattyError):
    code = "data_directory_in_use"

    def __init__(self, path: str) -> None:
        super().__init__(f"another Chatty is running on {path}")


class DatabaseMissing(ChattyError):
    """There is no embedded database yet; the first start makes it, and no other command does."""

    code = "database_missing"
    exit_code = 3


class DatabaseStartFailed(ChattyError):
    """The embedded PostgreSQL could not be made or started."""

    code = "database_start_failed"
    exit_code = 3


class BadConfiguration(ChattyError):
    code = "bad_configuration"
    exit_code = 2


class AddressUnavailable(ChattyError):
    """The address to listen on is in use, not this machine's, or not allowed."""

    code = "address_unavailable"

    def __init__(self, *, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}; set CHATTY_PORT (0 takes a free one) or CHATTY_HOST")


class NotConfirmed(ChattyError):
    """A command of the console that destroys something was not confirmed."""

    code = "not_confirmed"
    exit_code = 4


class ServerUnreachable(ChattyError):
    """The console could not reach the server's socket."""

    code = "server_unreachable"
    exit_code = 3


class JobUnknown(ChattyError):
    """The console named a background job that there is not."""

    code = "job_unknown"
    http_status = 404


class JobStopped(ChattyError):
    """A background job that is paused or dead was to run."""

    code = "job_stopped"
    http_status = 409


class JobRunning(ChattyError):
    """A background job was to run that runs already, or is about to."""

    code = "job_running"
    http_status = 409


class JobIdle(ChattyError):
    """A background job was to be aborted that does not run."""

    code = "job_idle"
    http_status = 409


class JobOverran(ChattyError):
    """One step of a background job took longer than the job's lease lasts."""

    code = "job_overran"


class JobFailed(ChattyError):
    """A background job that the console waited for did not end well."""

    code = "job_failed"


class KeyChangeRefused(ChattyError):
    """A key cannot be rotated or revoked so, or not now."""

    code = "key_change_refused"
    http_status = 409


class SealBroken(ChattyError):
    """A sealed secret does not open: another master key, or altered bytes."""

    code = "seal_broken"


class BackupDamaged(ChattyError):
    """An archive is not what was written: bytes were changed, it was cut off, or it is none."""

    code = "backup_damaged"


class BackupKeyWrong(ChattyError):
    """An archive does not open with this key: it was made under another master key, or for another operator's."""

    code = "backup_key_wrong"


class BackupFailed(ChattyError):
    """An archive could not be written or taken back: a program of PostgreSQL failed, or the disk is full. It leaves nothing."""

    code = "backup_failed"


class BackupUnproven(ChattyError):
    """What an archive gives back is not what its manifest says: it must not be relied upon."""

    code = "backup_unproven"


class RestoreRefused(ChattyError):
    """Where a backup is to be restored there is a database already, or another restore goes on, or PostgreSQL is too old."""

    code = "restore_refused"


class RestoreUnfinished(ChattyError):
    """A restore into this database broke off before its generation was raised: it is not served. Empty it and restore again."""

    code = "restore_unfinished"


class AuditBroken(ChattyError):
    """The audit log, or a head of it that was carried away, is not what was signed."""

    code = "audit_broken"


class AuditFileUnusable(ChattyError):
    """A file of audit heads, or an archive, that is not in its format, or cannot be written."""

    code = "audit_file_unusable"


class CrashUnknown(ChattyError):
    """No exception of this id is kept."""

    code = "crash_unknown"


# A WebSocket's own endings ------------------------------------------------------------------------------------------


class HelloTimeout(ChattyError):
    code = "hello_timeout"
    http_status = 408
    close_code = 4408


class HelloExpected(ChattyError):
    """A request came before hello was answered."""

    code = "hello_expected"
    http_status = 400
    close_code = 4400


class Superseded(ChattyError):
    """The same device said hello on a newer socket."""

    code = "superseded"
    http_status = 409
    close_code = 4409


class SlowReader(ChattyError):
    """The peer did not read for too long after it was told that it lags."""

    code = "slow_reader"
    http_status = 408
    close_code = 4429
