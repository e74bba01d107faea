"""The bytes that are signed. Each begins with a domain of ours, so no signature means something elsewhere.

Signed objects are JSON: what is signed is the canonical JSON of the object (its `domain` field is the domain).
Log-in and checkpoint statements are objects made here of their parts.
"""

from hashlib import sha256
from typing import Any

import msgspec

from chatty.ids import RoomId, Seq, UserId
from chatty.wire.accounts import KeyDerivation
from chatty.wire.canonical import canonical_json, encode_base64
from chatty.wire.events import (
    AnyPolicyChange,
    Content,
    CreateContent,
    Deletion,
    Invitation,
    MemberChange,
    Removal,
    Restoration,
)

Signable = CreateContent | Invitation | MemberChange | AnyPolicyChange | Removal | Restoration | Deletion


def signed_bytes(signable: Signable) -> bytes:
    """What a device signs for a creation, invitation, membership, policy or deletion, the server for a removal or restoration."""
    return canonical_json(msgspec.to_builtins(signable))


def link_proof_bytes(change: MemberChange, link: str) -> bytes:
    """What a link's key signs about one join: nobody else, no other device, room or n can show it again. link: its public key."""
    statement = {
        "domain": "chatty.link_proof.v1",
        "server": change.server,
        "room": change.room,
        "link": link,
        "user": change.target,
        "identity": change.target_identity,
        "device": change.device,
        "n": change.n,
    }
    return canonical_json(statement)


def body_bytes(content: Content) -> bytes:
    """The body of a state event or a deletion: canonical JSON of its content."""
    return canonical_json(msgspec.to_builtins(content))


def login_bytes(
    *, origin: str, user: UserId, nonce: str, dpop_thumbprint: str, purpose: str, about: bytes = b""
) -> bytes:
    """What the log-in key signs, and a passkey through passkey_challenge(). dpop_thumbprint: of the session's key.

    purpose: "register", "login", "step_up", "change_password" or "delete_account"; of a passkey also "add_passkey".
    about: digest of what is to be done, where the purpose alone does not say it.
    """
    statement = {
        "domain": "chatty.login.v1",
        "origin": origin,
        "user": user,
        "nonce": nonce,
        "dpop": dpop_thumbprint,
        "purpose": purpose,
    }
    if about:
        statement["about"] = encode_base64(about)
    return canonical_json(statement)


def passkey_challenge(statement: bytes) -> bytes:
    """The WebAuthn challenge over a log-in statement: what an authenticator signs holds all that the statement says."""
    return sha256(statement).digest()


def log_in_digest(*, device: str, name: str = "", replaces: str = "") -> bytes:
    """What a log-in makes and ends, as one SHA-256: the new device, and the one that it replaces; empty: none."""
    act = {"domain": "chatty.log_in.v1", "device": device, "name": name, "replaces": replaces}
    return sha256(canonical_json(act)).digest()


def password_digest(
    *, login_key: str, key_derivation: KeyDerivation, wrapped_recovery: bytes, end_other_sessions: bool
) -> bytes:
    """What a change of password puts in place, as one SHA-256."""
    change = {
        "domain": "chatty.password.v1",
        "login_key": login_key,
        "key_derivation": msgspec.to_builtins(key_derivation),
        "wrapped_recovery": encode_base64(wrapped_recovery),
        "end_other_sessions": end_other_sessions,
    }
    return sha256(canonical_json(change)).digest()


def checkpoint_bytes(*, server: str, room: RoomId, generation: int, seq: Seq, head: bytes, time: int) -> bytes:
    """What the server signs about a room's head at a time (ms)."""
    statement = {
        "domain": "chatty.checkpoint.v1",
        "server": server,
        "room": room,
        "generation": generation,
        "seq": seq,
        "head": encode_base64(head),
        "time": time,
    }
    return canonical_json(statement)


def horizon_bytes(*, server: str, room: RoomId, seq: Seq, head: bytes, before: int, time: int, key_id: str) -> bytes:
    """What the server signs about a room's horizon: all messages up to seq are older than `before` (ms) and gone."""
    statement = {
        "domain": "chatty.horizon.v1",
        "server": server,
        "room": room,
        "seq": seq,
        "head": encode_base64(head),
        "before": before,
        "time": time,
        "key_id": key_id,
    }
    return canonical_json(statement)


def matrix_signed_bytes(value: dict[str, Any]) -> bytes:
    """What a Matrix key object's signatures cover: canonical JSON without `signatures` and `unsigned`."""
    return canonical_json({key: item for key, item in value.items() if key not in ("signatures", "unsigned")})
