"""The Python SDK (Trio). For the client the server is the attacker: every signature, membership and head is checked before it
is believed or a key is shared. Start with `open_client`; docs/sdk.md has an example that runs as it stands.
"""

from chatty.client.client import Client, open_client
from chatty.client.errors import RemoteError, Unreachable
from chatty.client.reasons import (
    ClientError,
    Lie,
    NotSignedIn,
    Reason,
    RoomFrozen,
    SessionEnded,
    StoreInUse,
    UnacceptableDerivation,
    WrongStoreKey,
)
from chatty.client.room import Room
from chatty.client.updates import (
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

__all__ = [
    "Client",
    "ClientError",
    "Invited",
    "Lie",
    "MembershipChanged",
    "Message",
    "NotSignedIn",
    "Reason",
    "RemoteError",
    "Room",
    "RoomFrozen",
    "Sent",
    "ServerLied",
    "SessionEnded",
    "SignedOut",
    "StoreInUse",
    "StoreRolledBack",
    "UnacceptableDerivation",
    "Undecryptable",
    "Unreachable",
    "Unsent",
    "Update",
    "WrongStoreKey",
    "open_client",
]
