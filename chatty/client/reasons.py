"""Why the client does not believe something: one closed list, in the words of docs/sdk.md.

A `Lie` ends the trust in a room: it is frozen, nothing is sent to it and no key is shared, other rooms go on. What a dishonest
*member* could cause alone (a message that does not decrypt, or says inside something else than outside) freezes nothing: that one
message becomes an `Undecryptable` with its reason.
"""

from enum import Enum

from chatty.ids import RoomId, UserId


class Reason(Enum):
    """Each member's value is stable; the comment says who is to blame at least."""

    # Of one message
    NO_KEY_YET = "no_key_yet"  # its Megolm key did not come within limits.epoch_wait_s; it may still come
    WITHHELD = "withheld"  # its sender's device says that it gave no key, and why
    WRONG_SESSION_OWNER = "wrong_session_owner"  # encrypted with a Megolm session that is another device's
    REPLAYED = "replayed"  # the same ciphertext, or the same message index, at a second place
    ALTERED_EVENT = "altered_event"  # the ciphertext is damaged, or the envelope differs from what is repeated inside
    CONTENT_WITHHELD_BY_SERVER = (
        "content_withheld_by_server"  # the body is missing, and no expiry, deletion, removal or horizon explains it
    )

    # Of a room's order
    MISSING_EVENT = "missing_event"  # a hole, or a gap over events that this member may see; of the own stream: a hole
    REORDERED_EVENT = "reordered_event"  # an older event after a newer one
    DUPLICATE_EVENT = "duplicate_event"  # the same place, or the same signed change, twice
    FORKED_HISTORY = "forked_history"  # somebody else has verified another head at the same place
    GENERATION_WENT_BACK = "generation_went_back"  # an older state of the server, and no restore that says so
    WRONG_PREVIOUS = "wrong_previous"  # a state event that follows another one than the newest shown: one is hidden
    TIME_WENT_BACK = "time_went_back"  # the server's time within a room
    WRONG_EPOCH = "wrong_epoch"  # a message committed for another device set than the chain's
    WRONG_ROOM = "wrong_room"  # another room than the one that was asked for

    # Of state events and senders
    MALFORMED_EVENT = "malformed_event"  # not the canonical form of a known content, or of a kind that nobody makes
    BAD_SIGNATURE = "bad_signature"  # a signature of the acting device that does not fit, or for another room or server
    FORGED_MEMBERSHIP = "forged_membership"  # an addition or removal by nobody who may
    FORGED_ROLE = "forged_role"  # a promotion or demotion by nobody who may
    FORGED_POLICY = "forged_policy"
    FORGED_DELETION = "forged_deletion"  # of somebody else's message, by no admin
    FORGED_LINK = "forged_link"  # an invitation link made or ended by nobody who may
    FORGED_LISTING = "forged_listing"  # a room called open to everybody, or no more, by nobody who may
    BANNED_MEMBER = "banned_member"  # somebody was let in who is banned
    VOID_LINK = "void_link"  # somebody was let in by a link that is expired, used up, revoked or none of this room
    UNAUTHORIZED_MEMBER = "unauthorized_member"  # a message, receipt or typing of somebody who is no member
    NOT_WATCHED = "not_watched"  # presence of somebody of whom this client did not ask it

    # Of identities and devices
    IDENTITY_CHANGED = "identity_changed"  # another identity key than the one seen first
    DEVICE_KEY_CHANGED = "device_key_changed"  # other keys under a known device id
    DEVICE_LIST_MISMATCH = "device_list_mismatch"  # not the list whose digest the chain names, or an older one
    BAD_ONE_TIME_KEY = "bad_one_time_key"  # a claimed key that its device did not sign
    UNKNOWN_KEY_SHARE = "unknown_key_share"  # an Olm payload that was made for somebody else


class Lie(Exception):
    """The server (or whoever stands in its place) was caught. `user`: whose keys it is about, where no room is named yet."""

    def __init__(self, reason: Reason, detail: str, *, room: RoomId | None = None, user: UserId | None = None) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.room = room
        self.user = user


class KeysNeeded(Exception):
    """Not a fault: these users' device lists, or the server's own keys, must be asked for before the event can be judged."""

    def __init__(self, users: frozenset[UserId] = frozenset(), *, of_server: bool = False) -> None:
        super().__init__("the server" if of_server else ", ".join(sorted(users)))
        self.users = users
        self.of_server = of_server


class Unreadable(Exception):
    """One message cannot be taken; the room goes on."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class ClientError(Exception):
    """Root of what the SDK raises by itself; what the server answers is a ChattyError of chatty.errors."""


class RoomFrozen(ClientError):
    """The room is not trusted any more: nothing is sent to it and no keys are shared."""

    def __init__(self, room: RoomId, reason: Reason) -> None:
        super().__init__(f"{room} is frozen: {reason.value}")
        self.room = room
        self.reason = reason


class StoreInUse(ClientError):
    """Another process has this store open; two would use one ratchet twice."""


class WrongStoreKey(ClientError):
    """The store does not open with this key, or its bytes were altered."""


class UnacceptableDerivation(ClientError):
    """The server asks for password hashing that is too weak to protect, or too strong to finish."""


class WrongRelyingParty(ClientError):
    """The server asks a passkey to sign for a domain that is neither its own nor one above it."""


class NoRecoverySecret(ClientError):
    """This passkey cannot open the account's secrets: nothing was kept with it, or it gave no key. Log in with the password."""


class NotSignedIn(ClientError):
    """Register or log in first."""


class SessionEnded(ClientError):
    """This log-in session is over: revoked, logged out, or superseded by another process with the same store."""
