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
from chatty.client.relations import Edit, Reaction, Reply, Retraction, Thread
from chatty.client.room import Room
from chatty.client.room_links import InvitationLink
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
    MessageLost,
    ProfileChanged,
    RoomDetailsChanged,
    RoomLost,
    Sent,
    ServerLied,
    ServerRestored,
    SignedOut,
    StoreRolledBack,
    Undecryptable,
    Unsent,
    Update,
)
from chatty.client.views import MessageView
from chatty.client.weak_passwords import Weakness, WeakPassword
from chatty.wire.accounts import PasskeyAssertion, SecondFactor

__all__ = [
    "PRF_INPUT",
    "Client",
    "ClientError",
    "Deleted",
    "Edit",
    "Expired",
    "FactorAsked",
    "InvitationLink",
    "Invited",
    "Lie",
    "MembershipChanged",
    "Message",
    "MessageLost",
    "MessageView",
    "NoRecoverySecret",
    "NotSignedIn",
    "Notice",
    "NoticeRefused",
    "PasskeyAsked",
    "PasskeyAssertion",
    "PasskeyMade",
    "PasskeyToMake",
    "PresenceChanged",
    "ProfileChanged",
    "Reaction",
    "Reason",
    "ReceiptMoved",
    "RemoteError",
    "Reply",
    "Retraction",
    "Room",
    "RoomDetailsChanged",
    "RoomFrozen",
    "RoomLost",
    "SecondFactor",
    "Sent",
    "ServerLied",
    "ServerRestored",
    "SessionEnded",
    "SignedByPasskey",
    "SignedOut",
    "StoreInUse",
    "StoreRolledBack",
    "Thread",
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
