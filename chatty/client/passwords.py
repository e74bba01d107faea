"""What this client does with the password: derive its two keys, prove it to the server, change it.

The password goes into Argon2id and no further. A change makes both keys anew, wraps the recovery secret, which stays what it is,
under the new one, and is signed by the old and the new log-in key together. Nothing of it changes on this device's disk.
*Cancelled, or no answer*: either password may be the one; the server has the wrapped secret of one of the two and says which.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from chatty.client.errors import Unreachable
from chatty.client.http import Api
from chatty.client.reasons import UnacceptableDerivation
from chatty.client.second_factors import AskForFactor, show_factor
from chatty.client.weak_passwords import check_password
from chatty.crypto import passwords
from chatty.crypto.passwords import DerivationLimits, PasswordKeys
from chatty.crypto.signatures import public_key, sign
from chatty.errors import BadRequest, LoginRefused, OutcomeUnknown, SealBroken, StepUpRequired
from chatty.ids import UserId
from chatty.wire.accounts import Account, KeyDerivation, PasswordChange, Salt, SaltRequest, SecondFactor, StepUp
from chatty.wire.canonical import decode_base64
from chatty.wire.signing import login_bytes, password_digest

T = TypeVar("T")
WRAP_RECOVERY = "recovery"


class PasswordProver:
    """Of one server. limits: what the client accepts as password hashing."""

    def __init__(self, api: Api, *, limits: DerivationLimits | None = None) -> None:
        self._api = api
        self._limits = limits or DerivationLimits()

    async def keys(
        self, password: str, salt: Salt, derivation: KeyDerivation, *, server_name: str, user: UserId
    ) -> PasswordKeys:
        """Raises: UnacceptableDerivation."""
        bound_salt = passwords.salt(server_name=server_name, user=user, served_salt=decode_base64(salt.salt))
        return await derive(password, bound_salt, derivation, limits=self._limits)

    def statement(self, user: UserId, nonce: str, thumbprint: str, *, purpose: str, about: bytes = b"") -> bytes:
        """Over the origin as the user typed it: a server in between cannot pass it on."""
        return login_bytes(
            origin=self._api.origin, user=user, nonce=nonce, dpop_thumbprint=thumbprint, purpose=purpose, about=about
        )


class OwnPassword:
    """Of the account that is signed in: proven again, or changed.

    recovery_secret: what the server keeps wrapped. second_factor: one, or whom to ask if the server wants one.
    """

    def __init__(
        self,
        api: Api,
        *,
        user: UserId,
        server_name: str,
        recovery_secret: bytes,
        prover: PasswordProver,
        second_factor: SecondFactor | AskForFactor | None = None,
    ) -> None:
        self._api = api
        self._user = user
        self._server_name = server_name
        self._recovery_secret = recovery_secret
        self._prover = prover
        self._second_factor = second_factor

    async def step_up(self, password: str) -> None:
        """Prove it once more.

        Raises: LoginRefused, SecondFactorRequired, SecondFactorRefused, RateLimited, UnacceptableDerivation, WrongRelyingParty.
        """
        keys, _ = await self._current_keys(password)
        await self._step_up(keys)

    async def proven(self, act: Callable[[], Awaitable[T]], password: str) -> T:
        """Do it; again after a step-up, if the server wants one and there is a password.

        Raises: StepUpRequired, and as step_up().
        """
        try:
            return await act()
        except StepUpRequired:
            if not password:
                raise
        await self.step_up(password)
        return await act()

    async def sign(self, password: str, *, purpose: str, about: bytes) -> tuple[str, str]:
        """A fresh nonce, and the log-in key's signature over it. Raises: UnacceptableDerivation."""
        keys, _ = await self._current_keys(password)
        nonce = (await self._salt()).nonce
        return nonce, sign(keys.login_seed, self._statement(nonce, purpose=purpose, about=about))

    async def change(self, old: str, new: str, *, end_other_sessions: bool) -> None:
        """Raises: WeakPassword, LoginRefused (the old one is wrong), and as step_up()."""
        check_password(new, name=self._user[1:].partition(":")[0])
        old_keys, account = await self._current_keys(old)
        self._check_old(old_keys, account)
        salt = await self._salt()
        new_keys = await self._keys(new, salt, salt.key_derivation)
        wrapped = passwords.wrap(self._recovery_secret, key=new_keys.wrapping_key, purpose=WRAP_RECOVERY)
        change = _Change(old_keys, new_keys, salt.key_derivation, wrapped, end_other_sessions)
        try:
            await self._ask(change)
        except StepUpRequired:  # with keys that are derived already
            await self._step_up(old_keys)
            await self._ask(change)

    async def _ask(self, change: "_Change") -> None:
        """With a nonce of its own, for deriving keys takes its time. An unknown outcome is settled."""
        nonce = (await self._salt()).nonce
        statement = self._statement(nonce, purpose="change_password", about=change.digest)
        signatures = [sign(keys.login_seed, statement) for keys in (change.old_keys, change.new_keys)]
        try:
            await self._api.change_password(change.body(nonce, *signatures))
        except (Unreachable, OutcomeUnknown, LoginRefused):  # the last: a repeated try came after the first was done
            if (await self._api.account()).wrapped_recovery != change.wrapped:
                raise

    async def _step_up(self, keys: PasswordKeys) -> None:
        nonce = (await self._salt()).nonce
        statement = self._statement(nonce, purpose="step_up")
        await show_factor(
            self._api.step_up,
            StepUp(nonce=nonce, signature=sign(keys.login_seed, statement)),
            origin=self._api.origin,
            statement=statement,
            second_factor=self._second_factor,
        )

    async def _current_keys(self, password: str) -> tuple[PasswordKeys, Account]:
        """Derived as the account's own parameters say."""
        account = await self._api.account()
        return await self._keys(password, await self._salt(), account.key_derivation), account

    def _check_old(self, keys: PasswordKeys, account: Account) -> None:
        """A wrong password needs no request; what is wrapped anew is what the account's other devices use."""
        try:
            recovery = passwords.unwrap(account.wrapped_recovery, key=keys.wrapping_key, purpose=WRAP_RECOVERY)
        except SealBroken:
            raise LoginRefused("wrong password") from None
        if recovery != self._recovery_secret:
            raise SealBroken("the account holds another recovery secret than this device")

    async def _salt(self) -> Salt:
        return await self._api.salt(SaltRequest(user=self._user))

    async def _keys(self, password: str, salt: Salt, derivation: KeyDerivation) -> PasswordKeys:
        return await self._prover.keys(password, salt, derivation, server_name=self._server_name, user=self._user)

    def _statement(self, nonce: str, *, purpose: str, about: bytes = b"") -> bytes:
        return self._prover.statement(self._user, nonce, self._api.proofs.thumbprint, purpose=purpose, about=about)


class _Change:
    """Everything of a change but what is made for one try."""

    def __init__(
        self,
        old_keys: PasswordKeys,
        new_keys: PasswordKeys,
        derivation: KeyDerivation,
        wrapped: bytes,
        end_other_sessions: bool,
    ) -> None:
        self.old_keys, self.new_keys, self.wrapped = old_keys, new_keys, wrapped
        self._login_key = public_key(new_keys.login_seed)
        self._derivation = derivation
        self._end_other_sessions = end_other_sessions
        self.digest = password_digest(
            login_key=self._login_key,
            key_derivation=derivation,
            wrapped_recovery=wrapped,
            end_other_sessions=end_other_sessions,
        )

    def body(self, nonce: str, signature: str, new_signature: str) -> PasswordChange:
        return PasswordChange(
            login_key=self._login_key,
            key_derivation=self._derivation,
            wrapped_recovery=self.wrapped,
            end_other_sessions=self._end_other_sessions,
            nonce=nonce,
            signature=signature,
            new_signature=new_signature,
        )


async def derive(password: str, salt: bytes, parameters: KeyDerivation, *, limits: DerivationLimits) -> PasswordKeys:
    """In a worker thread. Raises: UnacceptableDerivation. Cancelled: the thread ends by itself, its keys are dropped."""
    try:
        passwords.check_parameters(parameters, limits)
    except BadRequest as error:
        raise UnacceptableDerivation(str(error)) from None

    def work() -> PasswordKeys:
        return passwords.derive(password, salt=salt, parameters=parameters, limits=limits)

    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
