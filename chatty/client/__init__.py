"""The Python SDK (Trio). For the client the server is the attacker: every signature, membership and head is checked before it
is believed or a key is shared. Start with `open_client`; docs/sdk.md has an example that runs as it stands.
"""

from chatty.client.client import Client, open_client
from chatty.client.errors import RemoteError, Unreachable
from chatty.client.notices import (
    Notice,
    NoticeRefused,
    PresenceChanged,
    ReceiptMoved,
    TypingChanged,
    UnreadChanged,
)
from chatty.client.reasons import (
    ClientError,
    Lie,
    NoRecoverySecret,
    NotSignedIn,
    Reason,
    RoomFrozen,
    SessionEnded,
    StoreInUse,
    UnacceptableDerivation,
    WrongRelyingParty,
    WrongStoreKey,
)
from chatty.client.room import Room
from chatty.client.second_factors import (
    PRF_INPUT,
    FactorAsked,
    PasskeyAsked,
    PasskeyMade,
    PasskeyToMake,
    SignedByPasskey,
)
from chatty.client.updates import (
    Deleted,
    Expired,
    Invited,
    MembershipChanged,
    Message,
    Sent,
    ServerLied,
    SignedOut,
    StoreRolledBack,
    Undecryptable,
    Unsent,
    Update,
)
from chatty.client.weak_passwords import Weakness, WeakPassword
from chatty.wire.accounts import PasskeyAssertion, SecondFactor

__all__ = [
    "PRF_INPUT",
    "Client",
    "ClientError",
    "Deleted",
    "Expired",
    "FactorAsked",
    "Invited",
    "Lie",
    "MembershipChanged",
    "Message",
    "NoRecoverySecret",
    "NotSignedIn",
    "Notice",
    "NoticeRefused",
    "PasskeyAsked",
    "PasskeyAssertion",
    "PasskeyMade",
    "PasskeyToMake",
    "PresenceChanged",
    "Reason",
    "ReceiptMoved",
    "RemoteError",
    "Room",
    "RoomFrozen",
    "SecondFactor",
    "Sent",
    "ServerLied",
    "SessionEnded",
    "SignedByPasskey",
    "SignedOut",
    "StoreInUse",
    "StoreRolledBack",
    "TypingChanged",
    "UnacceptableDerivation",
    "Undecryptable",
    "Unreachable",
    "UnreadChanged",
    "Unsent",
    "Update",
    "WeakPassword",
    "Weakness",
    "WrongRelyingParty",
    "WrongStoreKey",
    "open_client",
]
