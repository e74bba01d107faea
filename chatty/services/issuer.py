"""What the server signs and what it asks to be signed: tokens of a log-in session, and log-in statements."""

import os
from collections.abc import Callable

from chatty.crypto import signatures
from chatty.crypto.nonces import Nonces
from chatty.crypto.sealing import Random
from chatty.crypto.tokens import AccessTokens, RefreshTokens, make_family_id
from chatty.errors import BadSignature, LoginRefused
from chatty.ids import DeviceId, FamilyId, UserId
from chatty.wire.accounts import Tokens
from chatty.wire.canonical import encode_base64url
from chatty.wire.signing import login_bytes


class Issuer:
    """Makes both tokens of a log-in session, and checks log-in statements. origin: the public one."""

    def __init__(
        self,
        *,
        access: AccessTokens,
        refresh: RefreshTokens,
        nonces: Nonces,
        origin: str,
        clock_s: Callable[[], float],
        generation: int = 1,
        random: Random = os.urandom,
    ) -> None:
        self.generation = generation
        self._access = access
        self._refresh = refresh
        self._nonces = nonces
        self._origin = origin
        self._clock_s = clock_s
        self._random = random

    def make_family(self) -> FamilyId:
        return make_family_id(self._random(16))

    def make_nonce(self) -> str:
        return self._nonces.make(now_s=self._clock_s())

    def now_ms(self) -> int:
        return int(self._clock_s() * 1000)

    def issue(self, *, user: UserId, device: DeviceId, family: FamilyId, k: int, role: str, thumbprint: str) -> Tokens:
        access_token = self._access.issue(
            user=user,
            device=device,
            family=family,
            k=k,
            role=role,
            thumbprint=thumbprint,
            token_id=encode_base64url(self._random(16)),
            now_s=self._clock_s(),
        )
        return Tokens(
            user=user,
            device=device,
            access_token=access_token,
            refresh_token=self._refresh.make(family, k),
            expires_in_s=self._access.lifetime_s,
        )

    def statement(self, *, user: UserId, nonce: str, dpop_thumbprint: str, purpose: str, about: bytes = b"") -> bytes:
        """What somebody signs who proves who they are. about: as login_bytes() takes it."""
        return login_bytes(
            origin=self._origin, user=user, nonce=nonce, dpop_thumbprint=dpop_thumbprint, purpose=purpose, about=about
        )

    def check_signature(self, statement: bytes, *, login_key: str, signature: str) -> None:
        """Did the holder of the log-in key sign this? Raises: LoginRefused."""
        try:
            signatures.verify(login_key, statement, signature)
        except BadSignature:
            raise LoginRefused("unknown name or wrong password") from None

    def check_nonce(self, nonce: str) -> None:
        """Of a statement that was signed: within the last minutes? Raises: LoginRefused."""
        if not self._nonces.is_fresh(nonce, now_s=self._clock_s()):
            raise LoginRefused("the nonce is not fresh: ask for the salt again")
