"""An authenticator in software: it makes passkeys and signs with them, as WebAuthn Level 2 wants it, or as a test wants it."""

import base64
import json
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from chatty.wire.canonical import encode_base64url

USER_PRESENT, USER_VERIFIED, HAS_KEY, HAS_EXTENSIONS = 0x01, 0x04, 0x40, 0x80
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def es256() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(kw_only=True)
class Authenticator:
    """One passkey. count_step: 0 for one that counts nothing. user_handle: as it was told when the passkey was made."""

    rp_id: str
    origin: str
    key: PrivateKey = field(default_factory=es256)
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    user_handle: bytes = b""
    sign_count: int = 0
    count_step: int = 1
    flags: int = USER_PRESENT | USER_VERIFIED
    extensions: bytes = b""
    client_data_more: dict[str, Any] = field(default_factory=dict)

    @property
    def passkey(self) -> str:
        return encode_base64url(self.credential_id)

    def make(self, challenge: bytes) -> dict[str, Any]:
        """client_data and attestation, as in the body of POST /v1/passkeys."""
        attestation = {"fmt": "none", "attStmt": {}, "authData": self.authenticator_data(with_key=True)}
        return {
            "client_data": text(self.client_data("webauthn.create", challenge)),
            "attestation": text(cbor2.dumps(attestation)),
        }

    def sign(self, challenge: bytes) -> dict[str, Any]:
        """A PasskeyAssertion."""
        self.sign_count += self.count_step
        client_data = self.client_data("webauthn.get", challenge)
        data = self.authenticator_data()
        assertion = {
            "passkey": self.passkey,
            "client_data": text(client_data),
            "authenticator_data": text(data),
            "signature": text(self._signature(data + sha256(client_data).digest())),
        }
        return assertion | ({"user_handle": text(self.user_handle)} if self.user_handle else {})

    def client_data(self, kind: str, challenge: bytes) -> bytes:
        said = {"type": kind, "challenge": encode_base64url(challenge), "origin": self.origin}
        return json.dumps(said | self.client_data_more).encode()

    def authenticator_data(self, *, with_key: bool = False) -> bytes:
        flags = self.flags | (HAS_KEY if with_key else 0) | (HAS_EXTENSIONS if self.extensions else 0)
        head = sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.sign_count.to_bytes(4, "big")
        key = bytes(16) + len(self.credential_id).to_bytes(2, "big") + self.credential_id + self.cose_key()
        return head + (key if with_key else b"") + self.extensions

    def cose_key(self) -> bytes:
        match self.key:
            case ec.EllipticCurvePrivateKey():
                point = self.key.public_key().public_numbers()
                x, y = point.x.to_bytes(32, "big"), point.y.to_bytes(32, "big")
                return cbor2.dumps({1: 2, 3: -7, -1: 1, -2: x, -3: y})
            case ed25519.Ed25519PrivateKey():
                return cbor2.dumps({1: 1, 3: -8, -1: 6, -2: self.key.public_key().public_bytes_raw()})
            case rsa.RSAPrivateKey():
                numbers = self.key.public_key().public_numbers()
                n, e = numbers.n.to_bytes(256, "big"), numbers.e.to_bytes(3, "big")
                return cbor2.dumps({1: 3, 3: -257, -1: n, -2: e})

    def _signature(self, data: bytes) -> bytes:
        match self.key:
            case ec.EllipticCurvePrivateKey():
                return self.key.sign(data, ec.ECDSA(SHA256()))
            case ed25519.Ed25519PrivateKey():
                return self.key.sign(data)
            case rsa.RSAPrivateKey():
                return self.key.sign(data, PKCS1v15(), SHA256())


def text(data: bytes) -> str:
    """A byte field in JSON."""
    return base64.b64encode(data).decode()
