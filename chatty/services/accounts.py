"""Accounts: made by registration, open or with a token; the password never gets here.

The client derives a log-in key from the password and sends its public half, which is sealed before it is stored: with it one
could try passwords. The salt for that is a MAC over the name, for names that exist and names that do not. The recovery secret and
the identity key come wrapped, opaque and small. Registration makes the user, a first device, its log-in session and the audit row
in one transaction.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from chatty.crypto.sealing import Sealer
from chatty.crypto.signatures import check_ed25519_key
from chatty.errors import BadRequest, RegistrationClosed
from chatty.ids import UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.permissions import ROLES, USER_ROLE
from chatty.services.sessions import Issuer, SessionsUnit, login_key_purpose, record_login, start_session
from chatty.services.units import Transactions
from chatty.wire.accounts import Account, KeyDerivation, Registration, Salt, SaltRequest, Tokens
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.chain import device_list_digest

salt_bytes = 16


@dataclass(frozen=True, kw_only=True)
class NewUser:
    """What is stored of a registration."""

    user: UserId
    role: str
    identity_key: str
    key_derivation: KeyDerivation
    login_key_sealed: bytes = field(repr=False)
    wrapped_recovery: bytes = field(repr=False)
    wrapped_identity: bytes = field(repr=False)
    list_digest: bytes


def token_hash(token: str) -> bytes:
    """What is kept of a registration token: 32 bytes."""
    return sha256(b"chatty.registration_token.v1" + token.encode()).digest()


# Port ---------------------------------------------------------------------------------------------------------------


class Accounts(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def add_user(self, new: NewUser) -> UserNumber:
        """Raises: NameTaken."""
        ...

    async def account(self, user: UserNumber) -> Account: ...

    async def use_token(self, hashed: bytes) -> str | None:
        """Take one use of a registration token: the role that it gives, None if it is unknown, used up or too old."""
        ...

    async def add_token(self, hashed: bytes, *, role: str, uses: int, lifetime_s: float) -> None: ...


class AccountsUnit(SessionsUnit, Protocol):
    """What these steps need of a transaction."""

    @property
    def accounts(self) -> Accounts: ...


# Steps --------------------------------------------------------------------------------------------------------------


class AccountSteps:
    """key_derivations: what registrations may choose from; the first is named to everybody who asks for a salt."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[AccountsUnit],
        issuer: Issuer,
        sealer: Sealer,
        salt_key: bytes,
        server_name: str,
        is_registration_open: bool,
        key_derivations: Sequence[KeyDerivation],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._issuer = issuer
        self._sealer = sealer
        self._salt_key = salt_key
        self._server_name = server_name
        self._is_registration_open = is_registration_open
        self._key_derivations = list(key_derivations)

    def salt(self, body: SaltRequest) -> Salt:
        """The same for a known and an unknown name: nothing is looked up. The nonce lives at most a minute."""
        mac = hmac.digest(self._salt_key, b"chatty.served_salt.v1/" + body.user.encode(), sha256)
        return Salt(
            salt=encode_base64(mac[:salt_bytes]),
            nonce=self._issuer.make_nonce(),
            key_derivation=self._key_derivations[0],
        )

    async def register(self, body: Registration) -> Tokens:
        """Make the account and its first device.

        Raises: BadRequest, BadKey, LoginRefused (signature or nonce), RegistrationClosed, NameTaken, DeviceIdTaken.
        """
        user = UserId(f"@{body.name}:{self._server_name}")
        self._check(user, body)
        async with self._unit_of_work.begin() as unit:
            role = await self._admit(unit, body.registration_token)
            number = await unit.accounts.add_user(self._new_user(user, role, body))
            family = await start_session(unit, self._issuer, number, body.new_device, body.dpop_thumbprint)
            await record_login(unit, user, body.new_device.device, "account.registered", family, role=role)
        return self._issuer.issue(user=user, device=body.new_device.device, family=family, k=1, role=role)

    async def account(self, caller: Caller) -> Account:
        """The caller's own."""
        async with self._unit_of_work.snapshot() as unit:
            return await unit.accounts.account(caller.user_number)

    async def add_token(self, token: str, *, role: str = USER_ROLE, uses: int = 1, lifetime_s: float) -> None:
        """Let the holder of this token register, `uses` times. The caller made it of at least 16 random bytes.

        Raises: BadRequest for an unknown role, or no use or time at all.
        """
        if role not in ROLES or uses < 1 or lifetime_s <= 0:
            raise BadRequest("a token needs a known role, at least one use and some time")
        async with self._unit_of_work.begin() as unit:
            await unit.accounts.add_token(token_hash(token), role=role, uses=uses, lifetime_s=lifetime_s)
            made = {"role": role, "uses": uses, "lifetime_s": int(lifetime_s)}
            await unit.audit.record(actor="", device="", action="registration_token.added", object_="", after=made)

    def _check(self, user: UserId, body: Registration) -> None:
        if len(user) > 255:
            raise BadRequest("the user id is longer than 255 characters")
        if body.key_derivation not in self._key_derivations:
            raise BadRequest("key_derivation must be one of those that /v1/server names")
        check_ed25519_key(body.login_key)
        check_ed25519_key(body.identity_key)
        self._issuer.check_statement(
            login_key=body.login_key,
            user=user,
            nonce=body.nonce,
            dpop_thumbprint=body.dpop_thumbprint,
            purpose="register",
            signature=body.signature,
        )

    async def _admit(self, unit: AccountsUnit, token: str) -> str:
        """A token counts, and gives its role, even where registration is open."""
        if not token:
            if self._is_registration_open:
                return USER_ROLE
            raise RegistrationClosed("registration needs a token")
        role = await unit.accounts.use_token(token_hash(token))
        if role is None:
            raise RegistrationClosed("the registration token is unknown, used up or too old")
        return role

    def _new_user(self, user: UserId, role: str, body: Registration) -> NewUser:
        login_key = decode_base64(body.login_key, length=32)
        return NewUser(
            user=user,
            role=role,
            identity_key=body.identity_key,
            key_derivation=body.key_derivation,
            login_key_sealed=self._sealer.seal(login_key, purpose=login_key_purpose(user)),
            wrapped_recovery=body.wrapped_recovery,
            wrapped_identity=body.wrapped_identity,
            list_digest=device_list_digest([]),
        )
