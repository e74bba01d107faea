"""Tokens. An access token is a signed statement that lives minutes (RFC 9068, EdDSA); a refresh token is a MAC over a counter.

Access token: header {alg: EdDSA, typ: at+jwt, kid} and nothing else; claims iss and aud (the public origin), sub (user id),
client_id, jti, iat, exp, and our own: device, fam (family), k (which refresh token it was issued with), role.

Refresh token: chatty_r.<family>.<k>.<MAC of family and k>, so each successor is a function of the one before and the server
keeps only k. The prefix lets logs and scanners recognise one.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.types import Options

from chatty.errors import RefreshRefused, TokenExpired, Unauthenticated
from chatty.ids import DeviceId, FamilyId, UserId
from chatty.wire.accounts import Jwks
from chatty.wire.canonical import canonical_json, encode_base64url

access_lifetime_s_max = 600
client_id = "chatty"
_ALGORITHM = "EdDSA"
_TYPE = "at+jwt"
_CLAIMS = ["iss", "aud", "sub", "client_id", "jti", "iat", "exp", "device", "fam", "k", "role"]
_REFRESH = re.compile(r"chatty_r\.([A-Za-z0-9_-]{22})\.([1-9][0-9]{0,14})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, kw_only=True)
class AccessClaims:
    """What a checked access token says. expires_at_s: seconds since 1970."""

    user: UserId
    device: DeviceId
    family: FamilyId
    k: int
    role: str
    expires_at_s: float


class SigningKey:
    """An Ed25519 key of the server and its name, the RFC 7638 thumbprint. Never printed."""

    def __init__(self, seed: bytes) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self.private.public_key()
        self.key_id = encode_base64url(sha256(canonical_json(self._thumbprint_members())).digest())

    def _thumbprint_members(self) -> dict[str, str]:
        return {"crv": "Ed25519", "kty": "OKP", "x": encode_base64url(self.public.public_bytes_raw())}

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the message must begin with a domain of ours, so that it is no token."""
        return self.private.sign(message)

    def jwk(self) -> dict[str, str]:
        return {**self._thumbprint_members(), "kid": self.key_id, "alg": _ALGORITHM, "use": "sig"}


def make_jwks(keys: list[SigningKey]) -> Jwks:
    return Jwks(keys=[key.jwk() for key in keys])


class AccessTokens:
    """Issues with `key`; takes those of `older` keys too while they live. origin: the public one, never from a Host header."""

    def __init__(self, key: SigningKey, *, origin: str, lifetime_s: int, older: tuple[SigningKey, ...] = ()) -> None:
        if not 0 < lifetime_s <= access_lifetime_s_max:
            raise ValueError(f"an access token lives at most {access_lifetime_s_max} s")
        self._key = key
        self._publics: Mapping[str, Ed25519PublicKey] = {one.key_id: one.public for one in (key, *older)}
        self._origin = origin
        self.lifetime_s = lifetime_s

    def issue(
        self, *, user: UserId, device: DeviceId, family: FamilyId, k: int, role: str, token_id: str, now_s: float
    ) -> str:
        """token_id: random, unique."""
        claims = {
            "iss": self._origin,
            "aud": self._origin,
            "sub": user,
            "client_id": client_id,
            "jti": token_id,
            "iat": int(now_s),
            "exp": int(now_s) + self.lifetime_s,
            "device": device,
            "fam": family,
            "k": k,
            "role": role,
        }
        return jwt.encode(claims, self._key.private, _ALGORITHM, headers={"typ": _TYPE, "kid": self._key.key_id})

    def check(self, token: str, *, now_s: float) -> AccessClaims:
        """Raises: Unauthenticated for whatever is not a token of ours for us; TokenExpired only for one that was."""
        claims = self._verified(token)
        if not all(isinstance(claims[name], str) for name in ("sub", "device", "fam", "role", "jti")):
            raise Unauthenticated("a claim of the access token is no text")
        if claims["client_id"] != client_id or not all(type(claims[name]) is int for name in ("iat", "exp", "k")):
            raise Unauthenticated("a claim of the access token is wrong")
        if not 0 < claims["exp"] - claims["iat"] <= access_lifetime_s_max or claims["iat"] > now_s + 60:
            raise Unauthenticated("the access token's times are wrong")
        if claims["exp"] <= now_s:
            raise TokenExpired("the access token has expired")
        return AccessClaims(
            user=UserId(claims["sub"]),
            device=DeviceId(claims["device"]),
            family=FamilyId(claims["fam"]),
            k=claims["k"],
            role=claims["role"],
            expires_at_s=float(claims["exp"]),
        )

    def _verified(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            if header.keys() != {"alg", "typ", "kid"} or header["typ"] != _TYPE:
                raise Unauthenticated("not an access token")
            public = self._publics.get(header["kid"])
            if public is None:
                raise Unauthenticated("the access token's key is unknown")
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
    """key: 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, family: FamilyId, k: int) -> str:
        mac = hmac.digest(self._key, b"chatty.refresh.v1/%b/%d" % (family.encode(), k), sha256)
        return f"chatty_r.{family}.{k}.{encode_base64url(mac)}"

    def check(self, token: str) -> tuple[FamilyId, int]:
        """The family and k, if we made it; whether it is the newest, the store knows. Raises: RefreshRefused."""
        found = _REFRESH.fullmatch(token)
        if found is None:
            raise RefreshRefused("not a refresh token")
        family, k = FamilyId(found[1]), int(found[2])
        if not hmac.compare_digest(self.make(family, k), token):
            raise RefreshRefused("not a refresh token of this server")
        return family, k


def make_family_id(random_bytes: bytes) -> FamilyId:
    """random_bytes: 16."""
    return FamilyId(encode_base64url(random_bytes))
