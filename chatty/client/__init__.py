"""The Python SDK (Trio). For the client the server is the attacker: every signature, membership and head is checked before it
is believed or a key is shared. Start with `open_client`; docs/sdk.md has an example that runs as it stands.
"""

from chatty.client.client import Client, open_client
from chatty.client.errors import RemoteError, Unreachable
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
    "FactorAsked",
    "Invited",
    "Lie",
    "MembershipChanged",
    "Message",
    "NoRecoverySecret",
    "NotSignedIn",
    "PasskeyAsked",
    "PasskeyAssertion",
    "PasskeyMade",
    "PasskeyToMake",
    "Reason",
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
    "UnacceptableDerivation",
    "Undecryptable",
    "Unreachable",
    "Unsent",
    "Update",
    "WeakPassword",
    "Weakness",
    "WrongRelyingParty",
    "WrongStoreKey",
    "open_client",
]
