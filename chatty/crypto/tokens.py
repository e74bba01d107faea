"""Tokens. An access token is a signed statement that lives minutes (RFC 9068, EdDSA); a refresh token is a MAC over a counter.

Access token: header {alg: EdDSA, typ: at+jwt, kid} and nothing else; claims iss and aud (the public origin), sub (user id),
client_id, jti, iat, exp, cnf.jkt (the thumbprint of its DPoP key, RFC 9449), and our own: device, fam (family), k (which refresh
token it was issued with), role.

Refresh token: chatty_r.<family>.<k>.<MAC of family and k>, so each successor is a function of the one before and the server
keeps only k. The prefix lets logs and scanners recognise one.
"""

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.types import Options

from chatty.crypto.rings import Ring, Turn
from chatty.errors import RefreshRefused, TokenExpired, Unauthenticated
from chatty.ids import DeviceId, FamilyId, UserId
from chatty.wire.accounts import Jwks
from chatty.wire.canonical import canonical_json, encode_base64, encode_base64url
from chatty.wire.successions import CHECKPOINT, KeySuccession

access_lifetime_s_max = 600
client_id = "chatty"
_ALGORITHM = "EdDSA"
_TYPE = "at+jwt"
_CLAIMS = ["iss", "aud", "sub", "client_id", "jti", "iat", "exp", "cnf", "device", "fam", "k", "role"]
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
overlap_margin_s = 120.0  # beyond an access token's life: clocks differ, and a paused node signs late
_REFRESH = re.compile(r"chatty_r\.([A-Za-z0-9_-]{22})\.([1-9][0-9]{0,14})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, kw_only=True)
class AccessClaims:
    """What a checked access token says. key_id: of the key that signed it. thumbprint: of the DPoP key it is bound to.
    expires_at_s: seconds since 1970.
    """

    user: UserId
    device: DeviceId
    family: FamilyId
    k: int
    role: str
    thumbprint: str
    expires_at_s: float
    key_id: str


class VerifyingKey:
    """The public half of an Ed25519 key of the server, and its name, the RFC 7638 thumbprint."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self.public = public
        self.key_id = encode_base64url(sha256(canonical_json(self._thumbprint_members())).digest())

    @classmethod
    def from_bytes(cls, raw: bytes) -> "VerifyingKey":
        """raw: 32 bytes."""
        return cls(Ed25519PublicKey.from_public_bytes(raw))

    @property
    def public_text(self) -> str:
        """Unpadded base64."""
        return encode_base64(self.public.public_bytes_raw())

    def _thumbprint_members(self) -> dict[str, str]:
        return {"crv": "Ed25519", "kty": "OKP", "x": encode_base64url(self.public.public_bytes_raw())}

    def jwk(self) -> dict[str, str]:
        return {**self._thumbprint_members(), "kid": self.key_id, "alg": _ALGORITHM, "use": "sig"}


class SigningKey(VerifyingKey):
    """Both halves. Never printed."""

    def __init__(self, seed: bytes) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(seed)
        super().__init__(self.private.public_key())

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the message must begin with a domain of ours, so that it is no token."""
        return self.private.sign(message)


class UnknownKey(Exception):
    """The token was made with a key that is not in the ring: perhaps another node's newer one."""


MacKeys = Callable[[], Sequence[bytes]]


class TokenKeys(Protocol):
    """The signing keys of the moment."""

    def signing(self, *, now_s: float) -> SigningKey: ...
    def verifying(self, key_id: str, *, now_s: float) -> Ed25519PublicKey | None: ...
    def is_revoked(self, key_id: str) -> bool: ...


class Keyring(TokenKeys):
    """Signing keys that take turns: each signs from its time on, until the next one's time has come.

    A key verifies from when it is in the ring until nothing that it signed lives any more. keys: (key, signs from, s since 1970),
    at least one of which signs.
    """

    def __init__(self, keys: Sequence[tuple[SigningKey, float]]) -> None:
        self._ring = Ring([Turn(version=0, key=key, from_s=from_s) for key, from_s in keys])

    def signing(self, *, now_s: float) -> SigningKey:
        """The newest whose time has come; a clock that is behind them all gets the oldest."""
        return self._ring.current(now_s=now_s).key

    def verifying(self, key_id: str, *, now_s: float) -> Ed25519PublicKey | None:
        return next((key.public for key in self.published(now_s=now_s) if key.key_id == key_id), None)

    def is_revoked(self, key_id: str) -> bool:
        return False

    def published(self, *, now_s: float) -> list[SigningKey]:
        """Those that verify now, and that clients are told of."""
        kept_s = access_lifetime_s_max + overlap_margin_s
        return [turn.key for turn in self._ring.accepted(now_s=now_s, kept_s=kept_s)]


def make_jwks(
    keys: Sequence[VerifyingKey],
    *,
    checkpoint_keys: Sequence[VerifyingKey] = (),
    successions: Sequence[KeySuccession] = (),
) -> Jwks:
    """keys: of access tokens. checkpoint_keys: those that ever signed rooms' checkpoints, horizons and removals."""
    marked = [{**key.jwk(), "purpose": CHECKPOINT} for key in checkpoint_keys]
    return Jwks(keys=[*(key.jwk() for key in keys), *marked], successions=list(successions))


class AccessTokens:
    """origin: the public one, never from a Host header."""

    def __init__(self, keys: TokenKeys, *, origin: str, lifetime_s: int) -> None:
        if not 0 < lifetime_s <= access_lifetime_s_max:
            raise ValueError(f"an access token lives at most {access_lifetime_s_max} s")
        self._keys = keys
        self._origin = origin
        self.lifetime_s = lifetime_s

    def issue(
        self,
        *,
        user: UserId,
        device: DeviceId,
        family: FamilyId,
        k: int,
        role: str,
        thumbprint: str,
        token_id: str,
        now_s: float,
    ) -> str:
        """thumbprint: of the DPoP key that may use it. token_id: random, unique."""
        claims = {
            "iss": self._origin,
            "aud": self._origin,
            "sub": user,
            "client_id": client_id,
            "jti": token_id,
            "iat": int(now_s),
            "exp": int(now_s) + self.lifetime_s,
            "cnf": {"jkt": thumbprint},
            "device": device,
            "fam": family,
            "k": k,
            "role": role,
        }
        key = self._keys.signing(now_s=now_s)
        return jwt.encode(claims, key.private, _ALGORITHM, headers={"typ": _TYPE, "kid": key.key_id})

    def check(self, token: str, *, now_s: float) -> AccessClaims:
        """Raises: Unauthenticated for whatever is not a token of ours for us; TokenExpired only for one that was, and for
        those of a key that was revoked; UnknownKey.
        """
        claims = self._verified(token, now_s)
        if not all(isinstance(claims[name], str) for name in ("sub", "device", "fam", "role", "jti")):
            raise Unauthenticated("a claim of the access token is no text")
        if claims["client_id"] != client_id or not all(type(claims[name]) is int for name in ("iat", "exp", "k")):
            raise Unauthenticated("a claim of the access token is wrong")
        if not 0 < claims["exp"] - claims["iat"] <= access_lifetime_s_max or claims["iat"] > now_s + 60:
            raise Unauthenticated("the access token's times are wrong")
        confirmation = claims["cnf"]
        if not isinstance(confirmation, dict) or not _THUMBPRINT.fullmatch(str(confirmation.get("jkt"))):
            raise Unauthenticated("the access token is bound to no key")
        if claims["exp"] <= now_s:
            raise TokenExpired("the access token has expired")
        return AccessClaims(
            user=UserId(claims["sub"]),
            device=DeviceId(claims["device"]),
            family=FamilyId(claims["fam"]),
            k=claims["k"],
            role=claims["role"],
            thumbprint=confirmation["jkt"],
            expires_at_s=float(claims["exp"]),
            key_id=jwt.get_unverified_header(token)["kid"],
        )

    def _verified(self, token: str, now_s: float) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            if header.keys() != {"alg", "typ", "kid"} or header["typ"] != _TYPE:
                raise Unauthenticated("not an access token")
            public = self._keys.verifying(header["kid"], now_s=now_s)
            if public is None and self._keys.is_revoked(header["kid"]):
                raise TokenExpired("the key that signed the access token was revoked")
            if public is None:
                raise UnknownKey
            # Times are checked against the caller's clock, in check().
            options: Options = {"require": _CLAIMS, "verify_exp": False, "verify_iat": False, "strict_aud": True}
            claims: dict[str, Any] = jwt.decode(
                token,
                public,
                algorithms=[_ALGORITHM],
                issuer=self._origin,
                audience=self._origin,
                options=options,
            )
        except jwt.InvalidTokenError:
            raise Unauthenticated("the access token is malformed, forged or for somebody else") from None
        return claims


class RefreshTokens:
    """keys: those of the moment, 32 bytes each; the first makes tokens, all are good for checking them."""

    def __init__(self, keys: MacKeys) -> None:
        self._keys = keys

    def make(self, family: FamilyId, k: int) -> str:
        return _refresh_token(self._keys()[0], family, k)

    def check(self, token: str) -> tuple[FamilyId, int]:
        """The family and k, if we made it; whether it is the newest, the store knows. Raises: RefreshRefused, UnknownKey."""
        found = _REFRESH.fullmatch(token)
        if found is None:
            raise RefreshRefused("not a refresh token")
        family, k = FamilyId(found[1]), int(found[2])
        if not any(hmac.compare_digest(_refresh_token(key, family, k), token) for key in self._keys()):
            raise UnknownKey("not a refresh token of this server")
        return family, k


def _refresh_token(key: bytes, family: FamilyId, k: int) -> str:
    mac = hmac.digest(key, b"chatty.refresh.v1/%b/%d" % (family.encode(), k), sha256)
    return f"chatty_r.{family}.{k}.{encode_base64url(mac)}"


def make_family_id(random_bytes: bytes) -> FamilyId:
    """random_bytes: 16."""
    return FamilyId(encode_base64url(random_bytes))
