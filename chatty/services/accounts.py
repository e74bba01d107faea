"""Accounts: made by registration; the password never gets here. Who may register stands in registration.py.

The client derives a log-in key from the password and sends its public half, which is sealed before it is stored: with it one
could try passwords. The salt for that is a MAC over the name, for names that exist and names that do not. The recovery secret and
the identity key come wrapped, opaque and small. Registration makes the user, a first device, its log-in session and the audit row
in one transaction, or an application that waits.

Whether a name is taken learns only who holds a valid invitation, or, where registration is open, who stays within its limits.
"""

import hmac
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Protocol

from chatty.crypto.sealing import Sealer
from chatty.crypto.signatures import check_ed25519_key
from chatty.errors import ApprovalPending, BadRequest, Overloaded
from chatty.ids import UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.issuer import Issuer
from chatty.services.limits import Asker, Limits, subject_of_address, unlimited
from chatty.services.names import check_name, reserved_skeletons, skeleton
from chatty.services.permissions import USER_ROLE
from chatty.services.registration import Mode, NewUser, admit, invitation_id, token_hash
from chatty.services.sessions import SessionsUnit, login_key_purpose, record_login, start_session
from chatty.services.units import Transactions
from chatty.wire.accounts import Account, KeyDerivation, Registration, Salt, SaltRequest, Tokens
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.chain import device_list_digest

salt_bytes = 16


# Port ---------------------------------------------------------------------------------------------------------------


class Accounts(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def account(self, user: UserNumber) -> Account: ...


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
        mode: Mode,
        key_derivations: Sequence[KeyDerivation],
        limits: Limits | None = None,
        reserved_names: Collection[str] = (),
        requests_max: int = 1_000,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._issuer = issuer
        self._sealer = sealer
        self._salt_key = salt_key
        self._server_name = server_name
        self._mode: Mode = mode
        self._key_derivations = list(key_derivations)
        self._limits = limits or unlimited()
        self._reserved = reserved_skeletons(reserved_names)
        self._requests_max = requests_max

    def salt(self, body: SaltRequest) -> Salt:
        """The same for a known and an unknown name: nothing is looked up. The nonce lives some minutes."""
        mac = hmac.digest(self._salt_key, b"chatty.served_salt.v1/" + body.user.encode(), sha256)
        return Salt(
            salt=encode_base64(mac[:salt_bytes]),
            nonce=self._issuer.make_nonce(),
            key_derivation=self._key_derivations[0],
        )

    async def register(self, body: Registration, *, address: str = "") -> Tokens:
        """Make the account and its first device.

        Raises: BadRequest, BadKey, LoginRefused (signature or nonce), RegistrationClosed, NameReserved, NameTaken, DeviceIdTaken,
        RateLimited; ApprovalPending when the application was kept, Overloaded when it could not be.
        """
        user = UserId(f"@{body.name}:{self._server_name}")
        asker = Asker(what="post_v1_register", address=address)
        self._limits.take("registrations_address", subject_of_address(address), asker)
        self._check(user, body)
        if body.registration_token:
            self._limits.take("registrations_token", token_hash(body.registration_token).hex(), asker)
            return await self._register(user, body)
        if self._mode != "open":
            return await self._register(user, body)
        bucket = self._limits.take("registrations_server", "", asker)
        try:
            return await self._register(user, body)
        except BaseException:
            bucket.give_back()
            raise

    async def _register(self, user: UserId, body: Registration) -> Tokens:
        async with self._unit_of_work.begin() as unit:
            role = await admit(unit, self._mode, body.registration_token)
            if role not in ("owner", "admin"):
                check_name(body.name, reserved=self._reserved)
            new, family = self._new_user(user, role or USER_ROLE, body), None
            if role is None:
                await self._apply(unit, new)
            else:
                number = await unit.registrations.add_user(new)
                family = await start_session(unit, self._issuer, number, body.new_device, body.dpop_thumbprint)
                used = invitation_id(token_hash(body.registration_token)) if body.registration_token else ""
                await record_login(
                    unit, user, body.new_device.device, "account.registered", family, role=role, invitation=used
                )
        if role is None or family is None:
            raise ApprovalPending("an admin decides; then log in")
        return self._issuer.issue(
            user=user,
            device=body.new_device.device,
            family=family,
            k=1,
            role=role,
            thumbprint=body.dpop_thumbprint,
        )

    async def _apply(self, unit: AccountsUnit, new: NewUser) -> None:
        """Whether the name is free is not looked at: nobody may learn it."""
        if await unit.registrations.requests_count() >= self._requests_max:
            raise Overloaded(limiter="registration_requests_max", retry_after_s=3_600.0)
        await unit.registrations.add_request(new)
        await unit.audit.record(actor="", device="", action="registration.requested", object_=new.user)

    async def account(self, caller: Caller) -> Account:
        """The caller's own."""
        async with self._unit_of_work.autocommit() as unit:
            return await unit.accounts.account(caller.user_number)

    def _check(self, user: UserId, body: Registration) -> None:
        if len(user) > 255:
            raise BadRequest("the user id is longer than 255 characters")
        if body.key_derivation not in self._key_derivations:
            raise BadRequest("key_derivation must be one of those that /v1/server names")
        check_ed25519_key(body.login_key)
        check_ed25519_key(body.identity_key)
        statement = self._issuer.statement(
            user=user, nonce=body.nonce, dpop_thumbprint=body.dpop_thumbprint, purpose="register"
        )
        self._issuer.check_signature(statement, login_key=body.login_key, signature=body.signature)
        self._issuer.check_nonce(body.nonce)

    def _new_user(self, user: UserId, role: str, body: Registration) -> NewUser:
        login_key = decode_base64(body.login_key, length=32)
        return NewUser(
            user=user,
            name_skeleton=skeleton(body.name),
            role=role,
            identity_key=body.identity_key,
            key_derivation=body.key_derivation,
            login_key_sealed=self._sealer.seal(login_key, purpose=login_key_purpose(user)),
            wrapped_recovery=body.wrapped_recovery,
            wrapped_identity=body.wrapped_identity,
            list_digest=device_list_digest([]),
        )
