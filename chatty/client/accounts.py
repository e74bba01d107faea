"""Registration and log-in: what this person's keys are, and how a second device comes to them.

At registration the client makes the identity key (Ed25519) and the recovery secret (32 random bytes). The recovery secret is
wrapped under the password's wrapping key, the identity key under the recovery secret; the server keeps both, opaque. A second
device logs in with the password's signing key, unwraps both and checks that they belong to the identity that the server
names. A passkey alone may take the password's place, if it keeps the recovery secret too.
"""

import secrets

from msgspec import Struct

from chatty.client.dpop import new_key
from chatty.client.http import Api
from chatty.client.passwords import WRAP_RECOVERY, OwnPassword, PasswordProver
from chatty.client.reasons import Lie, NoRecoverySecret, Reason
from chatty.client.second_factors import (
    AskForFactor,
    PasskeyAsked,
    SignByPasskey,
    SignedByPasskey,
    check_rp_id,
    show_factor,
)
from chatty.client.store import LocalStore
from chatty.client.weak_passwords import check_password
from chatty.crypto import passwords
from chatty.crypto.dpop import DpopKey
from chatty.crypto.passwords import DerivationLimits, PasswordKeys
from chatty.crypto.signatures import public_key, sign
from chatty.errors import LoginRefused, SealBroken
from chatty.ids import DeviceId, UserId
from chatty.wire.accounts import (
    KeyDerivation,
    Login,
    NewDevice,
    PasskeyAssertion,
    Registration,
    SaltRequest,
    SecondFactor,
    ServerInfo,
    StepUp,
    Tokens,
)
from chatty.wire.canonical import encode_base64url
from chatty.wire.signing import log_in_digest, passkey_challenge

_IDENTITY = "identity"
_WRAP_IDENTITY = "identity"


class Identity(Struct, frozen=True, kw_only=True):
    """Who this store belongs to. The last two fields are secrets of 32 bytes."""

    server_name: str
    user: UserId
    device: DeviceId
    identity_key: str
    identity_seed: bytes
    recovery_secret: bytes

    def __repr__(self) -> str:
        return f"Identity({self.user}, {self.device})"


def load_identity(store: LocalStore) -> Identity | None:
    """None: nobody has registered or logged in with this store."""
    return store.get(_IDENTITY, "", Identity)


class Enrolment:
    """The ways in. derivation_limits: what the client accepts as password hashing."""

    def __init__(self, api: Api, store: LocalStore, *, derivation_limits: DerivationLimits | None = None) -> None:
        self._api = api
        self._store = store
        self._prover = PasswordProver(api, limits=derivation_limits)

    async def register(self, name: str, password: str, *, token: str, device_name: str) -> Identity:
        """Raises: WeakPassword, NameTaken, NameReserved, RegistrationClosed, ApprovalPending (an admin decides; then log in),
        RateLimited, UnacceptableDerivation. Cancelled: log in to see whether it was done.
        """
        check_password(password, name=name)
        server_name = (await self._api.server()).server_name
        user = UserId(f"@{name}:{server_name}")
        salt = await self._api.salt(SaltRequest(user=user))
        keys = await self._prover.keys(password, salt, salt.key_derivation, server_name=server_name, user=user)
        identity, key = _new_identity(server_name, user), new_key()
        registration = Registration(
            name=name,
            login_key=public_key(keys.login_seed),
            identity_key=identity.identity_key,
            wrapped_recovery=passwords.wrap(identity.recovery_secret, key=keys.wrapping_key, purpose=WRAP_RECOVERY),
            wrapped_identity=passwords.wrap(
                identity.identity_seed, key=identity.recovery_secret, purpose=_WRAP_IDENTITY
            ),
            key_derivation=salt.key_derivation,
            new_device=NewDevice(device=identity.device, name=device_name),
            nonce=salt.nonce,
            signature=sign(keys.login_seed, self.statement(user, salt.nonce, key.thumbprint, purpose="register")),
            dpop_thumbprint=key.thumbprint,
            registration_token=token,
        )
        tokens = await self._api.register(registration)
        with self._store.transaction():
            self._store.put(_IDENTITY, "", identity)
            self._take_tokens(tokens, key)
        return identity

    async def login(
        self,
        user: UserId,
        password: str,
        *,
        device_name: str,
        second_factor: SecondFactor | AskForFactor | None = None,
    ) -> Identity:
        """Each log-in is a new device.

        Raises: LoginRefused, SecondFactorRequired, SecondFactorRefused, ApprovalPending, RateLimited, SealBroken,
        UnacceptableDerivation, WrongRelyingParty, Lie.
        """
        server = await self._api.server()
        login, keys = await self._log_in(user, password, server, device_name=device_name, second_factor=second_factor)
        account = await self._api.account()
        recovery = passwords.unwrap(account.wrapped_recovery, key=keys.wrapping_key, purpose=WRAP_RECOVERY)
        return await self._unwrapped(login, server.server_name, recovery)

    async def sign_in(
        self,
        user: UserId,
        password: str,
        *,
        device_name: str,
        second_factor: SecondFactor | AskForFactor | None = None,
    ) -> ServerInfo:
        """As login(), for asking the server alone: no secret of the account is opened or kept. Raises: as login()."""
        server = await self._api.server()
        await self._log_in(user, password, server, device_name=device_name, second_factor=second_factor)
        return server

    async def login_with_passkey(self, user: UserId, sign_: SignByPasskey, *, device_name: str) -> Identity:
        """As login(), by a passkey alone.

        Raises: LoginRefused, RateLimited, NoRecoverySecret (the log-in session is ended again), WrongRelyingParty, Lie.
        """
        server = await self._api.server()
        nonce, key, device = (await self._api.salt(SaltRequest(user=user))).nonce, new_key(), _new_device(device_name)
        signed = await self._signed(sign_, server.rp_id, self._login_statement(user, nonce, key, device))
        login = self._login(user, nonce, key, signed.assertion, device)
        self._take_tokens(await self._api.login(login), key)
        try:
            return await self._unwrapped(login, server.server_name, await self._kept_with(signed))
        except NoRecoverySecret:
            await self._api.logout()
            self._api.tokens.forget()
            raise

    async def step_up_with_passkey(self, identity: Identity, sign_: SignByPasskey) -> None:
        """Raises: LoginRefused, RateLimited, WrongRelyingParty."""
        server = await self._api.server()
        nonce = (await self._api.salt(SaltRequest(user=identity.user))).nonce
        statement = self.statement(identity.user, nonce, self._api.proofs.thumbprint, purpose="step_up")
        signed = await self._signed(sign_, server.rp_id, statement)
        await self._api.step_up(StepUp(nonce=nonce, signature=signed.assertion))

    def statement(self, user: UserId, nonce: str, thumbprint: str, *, purpose: str) -> bytes:
        return self._prover.statement(user, nonce, thumbprint, purpose=purpose)

    def _login_statement(self, user: UserId, nonce: str, key: DpopKey, device: NewDevice) -> bytes:
        about = log_in_digest(device=device.device, name=device.name)
        return self._prover.statement(user, nonce, key.thumbprint, purpose="login", about=about)

    def _login(
        self, user: UserId, nonce: str, key: DpopKey, signature: str | PasskeyAssertion, device: NewDevice
    ) -> Login:
        return Login(
            user=user,
            new_device=device,
            nonce=nonce,
            signature=signature,
            dpop_thumbprint=key.thumbprint,
            known_refresh_token=self._api.tokens.last_refresh_token,
        )

    async def _signed(self, sign_: SignByPasskey, rp_id: str, statement: bytes) -> SignedByPasskey:
        check_rp_id(self._api.origin, rp_id)
        return await sign_(PasskeyAsked(rp_id=rp_id, challenge=passkey_challenge(statement)))

    async def _kept_with(self, signed: SignedByPasskey) -> bytes:
        """The recovery secret that this passkey opens. Raises: NoRecoverySecret."""
        own = (await self._api.second_factors()).passkeys
        wrapped = next((one.wrapped_recovery for one in own if one.passkey == signed.assertion.passkey), None)
        if wrapped is None or signed.wrapping_key is None:
            raise NoRecoverySecret("nothing is kept with this passkey, or it gave no key")
        try:
            return passwords.unwrap(wrapped, key=signed.wrapping_key, purpose=WRAP_RECOVERY)
        except SealBroken:
            raise NoRecoverySecret("what is kept with this passkey does not open") from None

    async def _unwrapped(self, login: Login, server_name: str, recovery: bytes) -> Identity:
        """Raises: SealBroken, Lie."""
        account = await self._api.account()
        seed = passwords.unwrap(account.wrapped_identity, key=recovery, purpose=_WRAP_IDENTITY)
        check_identity_key(login.user, seed, account.identity_key)
        identity = Identity(
            server_name=server_name,
            user=login.user,
            device=login.new_device.device,
            identity_key=account.identity_key,
            identity_seed=seed,
            recovery_secret=recovery,
        )
        self._store.put(_IDENTITY, "", identity)
        return identity

    async def _log_in(
        self,
        user: UserId,
        password: str,
        server: ServerInfo,
        *,
        device_name: str,
        second_factor: SecondFactor | AskForFactor | None,
    ) -> tuple[Login, PasswordKeys]:
        """With the derivation for new passwords first; the password may be older, so then with the server's others."""
        tried: list[KeyDerivation] = []
        while True:
            salt, key = await self._api.salt(SaltRequest(user=user)), new_key()
            left = [one for one in (salt.key_derivation, *server.key_derivation) if one not in tried]
            keys = await self._prover.keys(password, salt, left[0], server_name=server.server_name, user=user)
            device = _new_device(device_name)
            statement = self._login_statement(user, salt.nonce, key, device)
            login = self._login(user, salt.nonce, key, sign(keys.login_seed, statement), device)
            try:
                tokens = await show_factor(
                    self._api.login, login, origin=self._api.origin, statement=statement, second_factor=second_factor
                )
            except LoginRefused:
                tried.append(left[0])
                if set(left) <= set(tried):
                    raise
            else:
                self._take_tokens(tokens, key)
                return login, keys

    def own_password(
        self, identity: Identity, *, second_factor: SecondFactor | AskForFactor | None = None
    ) -> OwnPassword:
        """Of whoever is signed in with this store. second_factor: shown where the password is proven again."""
        return OwnPassword(
            self._api,
            user=identity.user,
            server_name=identity.server_name,
            recovery_secret=identity.recovery_secret,
            prover=self._prover,
            second_factor=second_factor,
        )

    def _take_tokens(self, tokens: Tokens, key: DpopKey) -> None:
        with self._store.transaction():
            self._api.proofs.adopt(key)
            self._api.tokens.save(tokens)


def check_identity_key(user: UserId, seed: bytes, identity_key: str) -> None:
    """The unwrapped private key must be that of the public key which the server shows to others."""
    if public_key(seed) != identity_key:
        raise Lie(Reason.IDENTITY_CHANGED, "the server names another identity key than ours", user=user)


def new_device_id() -> DeviceId:
    return DeviceId("D" + encode_base64url(secrets.token_bytes(15)))


def _new_device(name: str) -> NewDevice:
    return NewDevice(device=new_device_id(), name=name)


def _new_identity(server_name: str, user: UserId) -> Identity:
    seed = secrets.token_bytes(32)
    return Identity(
        server_name=server_name,
        user=user,
        device=new_device_id(),
        identity_key=public_key(seed),
        identity_seed=seed,
        recovery_secret=secrets.token_bytes(32),
    )
