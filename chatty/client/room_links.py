"""Invitation links in the hands of who makes and who takes them.

A link's text is `ORIGIN/join#ROOM.SEED`. What stands behind # is sent to nobody by a browser; the server is shown the public half
of the seed's key, and signatures by it. Whoever has the text can join until the link ends: it is a secret, and does not print.
"""

import re
import secrets
from dataclasses import dataclass, field

from chatty.crypto import signatures
from chatty.errors import BadRequest
from chatty.ids import RoomId
from chatty.wire.canonical import decode_base64url, encode_base64url
from chatty.wire.events import MemberChange
from chatty.wire.room_links import LinkProof
from chatty.wire.signing import link_proof_bytes

_TEXT = re.compile(r"(?P<origin>[^#]*)/join#(?P<room>![A-Za-z0-9_-]{43})\.(?P<seed>[A-Za-z0-9_-]{43})\Z")
seed_bytes = 32


@dataclass(frozen=True, kw_only=True)
class InvitationLink:
    """origin: of the server; seed: of the link's Ed25519 key. `text` is what one hands on, to nobody else."""

    origin: str
    room: RoomId
    seed: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return f"{self.origin}/join#{self.room}.{encode_base64url(self.seed)}"

    @property
    def key(self) -> str:
        """By which the room and the server know it: the public half."""
        return signatures.public_key(self.seed)

    def proof(self, change: MemberChange) -> LinkProof:
        """That whoever has the link makes this very join."""
        return LinkProof(link=self.key, signature=signatures.sign(self.seed, link_proof_bytes(change, self.key)))


def new_link(origin: str, room: RoomId) -> InvitationLink:
    return InvitationLink(origin=origin, room=room, seed=secrets.token_bytes(seed_bytes))


def parse_link(text: str) -> InvitationLink:
    """Raises: BadRequest for what is no link; it does not repeat it."""
    found = _TEXT.match(text.strip())
    if found is None:
        raise BadRequest("not an invitation link")
    seed = decode_base64url(found["seed"], length=seed_bytes)
    return InvitationLink(origin=found["origin"], room=RoomId(found["room"]), seed=seed)
