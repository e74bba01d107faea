"""DPoP (RFC 9449): a proof that whoever uses a token holds the key that the token is bound to.

A proof is a JWT of its own for each request: header {alg, typ: dpop+jwt, jwk}, claims jti, htm, htu, iat, nonce, and ath when an
access token goes with it. Taken are EdDSA (Ed25519) and ES256, which browsers can keep in a key that no script can read. A key
is named by its RFC 7638 thumbprint.

Freshness is the nonce's business, for it is the server's own clock; iat is only there because the RFC wants it.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt import PyJWK

from chatty.crypto.signatures import check_ed25519_key
from chatty.errors import BadKey, BadRequest, InvalidDpopProof
from chatty.wire.canonical import canonical_json, decode_base64url, encode_base64, encode_base64url

proof_bytes_max = 4_096
_TYPE = "dpop+jwt"
_CLAIMS = ["jti", "htm", "htu", "iat", "nonce"]
_JTI = re.compile(r"[\x21-\x7e]{8,128}")
_COORDINATE = re.compile(r"[A-Za-z0-9_-]{43}")
_MEMBERS = {"EdDSA": ("OKP", "Ed25519", ("x",)), "ES256": ("EC", "P-256", ("x", "y"))}


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a checked proof says. thumbprint: of its key. nonce: fresh or not, that is for the caller to see."""

    thumbprint: str
    jti: str
    nonce: str


class DpopKey:
    """A client's own Ed25519 key, for nothing but proofs; never printed. seed: 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        public = encode_base64url(self._private.public_key().public_bytes_raw())
        self._jwk = {"crv": "Ed25519", "kty": "OKP", "x": public}
        self.thumbprint = thumbprint(self._jwk)

    def proof(self, *, method: str, url: str, nonce: str, jti: str, now_s: float, access_token: str = "") -> str:
        """jti: random, for this request alone. url: without query and fragment."""
        claims: dict[str, Any] = {"jti": jti, "htm": method, "htu": url, "iat": int(now_s), "nonce": nonce}
        if access_token:
            claims["ath"] = token_hash(access_token)
        return jwt.encode(claims, self._private, "EdDSA", headers={"typ": _TYPE, "jwk": self._jwk})


def thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638 over the required members: 43 characters."""
    return encode_base64url(sha256(canonical_json(dict(jwk))).digest())


def token_hash(access_token: str) -> str:
    """The claim ath."""
    return encode_base64url(sha256(access_token.encode()).digest())


def check_proof(proof: str, *, method: str, url: str, access_token: str = "") -> Proof:
    """Everything of RFC 9449, section 4.3, but whose key it is, whether the nonce is fresh, and whether it came before.

    url: the public one, its path decoded, never from a Host header. access_token: empty if none goes with the request.
    Raises: InvalidDpopProof.
    """
    claims, thumb = _verified(proof)
    if claims["htm"] != method or not _is_same_url(claims["htu"], url):
        raise InvalidDpopProof("the DPoP proof is for another request")
    ath = claims.get("ath", "")
    if not hmac.compare_digest(ath.encode(), token_hash(access_token).encode() if access_token else b""):
        raise InvalidDpopProof("the DPoP proof is for another access token")
    return Proof(thumbprint=thumb, jti=claims["jti"], nonce=claims["nonce"])


def _verified(proof: str) -> tuple[dict[str, Any], str]:
    if len(proof) > proof_bytes_max:
        raise InvalidDpopProof("the DPoP proof is too long")
    try:
        header = jwt.get_unverified_header(proof)
        if header.keys() != {"alg", "typ", "jwk"} or header["typ"] != _TYPE:
            raise InvalidDpopProof("not a DPoP proof")
        key, thumb = _key(header["alg"], header["jwk"])
        claims: dict[str, Any] = jwt.decode(
            proof, key, algorithms=[header["alg"]], options={"require": _CLAIMS, "verify_iat": False}
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise InvalidDpopProof("the DPoP proof is malformed or its signature does not fit") from None
    _check_types(claims)
    return claims, thumb


def _check_types(claims: Mapping[str, Any]) -> None:
    texts = [claims[name] for name in ("jti", "htm", "htu", "nonce")] + [claims.get("ath", "")]
    if not all(isinstance(text, str) and text.isascii() for text in texts) or not _JTI.fullmatch(claims["jti"]):
        raise InvalidDpopProof("a claim of the DPoP proof is wrong")
    if type(claims["iat"]) not in (int, float):
        raise InvalidDpopProof("the DPoP proof's iat is no number")


def _key(algorithm: Any, jwk: Any) -> tuple[PyJWK, str]:
    """The key in the header, if it is a public one of a kind that we take, and its thumbprint."""
    kind, curve, coordinates = _MEMBERS[algorithm] if algorithm in ("EdDSA", "ES256") else ("", "", ())
    if not kind or not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != (kind, curve):
        raise InvalidDpopProof("DPoP proofs are signed with EdDSA over Ed25519, or with ES256")
    if not jwk.keys() <= {"kty", "crv", "alg", "use", "kid", "key_ops", "ext", *coordinates}:
        raise InvalidDpopProof("the DPoP key holds more than a public key")
    members = {"kty": kind, "crv": curve, **{name: _coordinate(jwk.get(name)) for name in coordinates}}
    if kind == "OKP":
        _check_point(members["x"])
    return PyJWK(members, algorithm=algorithm), thumbprint(members)


def _coordinate(value: Any) -> str:
    if not isinstance(value, str) or not _COORDINATE.fullmatch(value):
        raise InvalidDpopProof("the DPoP key is malformed")
    return value


def _check_point(x: str) -> None:
    """A point of low order would let a signature fit many messages."""
    try:
        check_ed25519_key(encode_base64(decode_base64url(x, length=32)))
    except (BadKey, BadRequest):
        raise InvalidDpopProof("the DPoP key is no Ed25519 public key") from None


def _is_same_url(claimed: str, url: str) -> bool:
    """Without query and fragment; however it is percent-encoded."""
    return unquote(re.split(r"[?#]", claimed, maxsplit=1)[0]) == url
