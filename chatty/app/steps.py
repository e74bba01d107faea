"""Every feature's steps, made of settings, store and each other."""

import os
from dataclasses import dataclass

from chatty.app.database import Store
from chatty.app.process import now_ms, now_s
from chatty.config import Settings
from chatty.crypto.nonces import Nonces
from chatty.crypto.passwords import DEFAULT_DERIVATION
from chatty.crypto.tokens import AccessTokens, RefreshTokens
from chatty.services.accounts import AccountSteps
from chatty.services.checkpoints import Checkpoints
from chatty.services.devices import DeviceSteps
from chatty.services.doorbells import Doorbells
from chatty.services.dpop import Proofs
from chatty.services.keys import KeySteps
from chatty.services.limits import Limits
from chatty.services.login_throttle import LoginThrottle
from chatty.services.mailbox import MailboxSteps
from chatty.services.registration import RegistrationSteps
from chatty.services.rooms import RoomSteps
from chatty.services.sessions import Issuer, Lifetimes, SessionSteps
from chatty.services.signing_keys import SigningKeys, SigningKeySteps
from chatty.services.streams import StreamSteps


@dataclass(frozen=True, kw_only=True)
class Steps:
    accounts: AccountSteps
    sessions: SessionSteps
    registration: RegistrationSteps
    devices: DeviceSteps
    keys: KeySteps
    mailbox: MailboxSteps
    rooms: RoomSteps
    streams: StreamSteps
    checkpoints: Checkpoints
    proofs: Proofs
    signing_keys: SigningKeys
    key_turns: SigningKeySteps


def make_steps(settings: Settings, store: Store, doorbells: Doorbells, limits: Limits) -> Steps:
    units, keys_ = store.units, store.keys
    signing_keys = SigningKeys(keys_.signing, units=units, sealer=keys_.sealer, clock_s=now_s)
    access = AccessTokens(signing_keys, origin=settings.public_origin, lifetime_s=int(settings.access_token_lifetime_s))
    refresh = RefreshTokens(keys_.refresh_key)
    proofs = Proofs(Nonces(keys_.nonce_key, purpose="dpop"), origin=settings.public_origin, clock_s=now_s)
    issuer = Issuer(
        access=access,
        refresh=refresh,
        nonces=Nonces(keys_.nonce_key, purpose="login"),
        origin=settings.public_origin,
        clock_s=now_s,
        generation=store.identity.generation.number,
    )
    return Steps(
        accounts=AccountSteps(
            unit_of_work=units,
            issuer=issuer,
            sealer=keys_.sealer,
            salt_key=keys_.salt_key,
            server_name=settings.server_name,
            mode=settings.registration_mode,
            key_derivations=[DEFAULT_DERIVATION],
            limits=limits,
            reserved_names=[name.strip() for name in settings.reserved_names.split(",")],
            requests_max=settings.registration_requests_max,
        ),
        sessions=SessionSteps(
            unit_of_work=units,
            doorbells=doorbells,
            issuer=issuer,
            access=access,
            refresh=refresh,
            proofs=proofs,
            signing_keys=signing_keys,
            sealer=keys_.sealer,
            lifetimes=_lifetimes(settings),
            clock_s=now_s,
            throttle=_throttle(settings, limits),
        ),
        registration=RegistrationSteps(unit_of_work=units, mode=settings.registration_mode),
        devices=DeviceSteps(unit_of_work=units, doorbells=doorbells, clock_ms=now_ms),
        keys=KeySteps(
            unit_of_work=units, doorbells=doorbells, clock_ms=now_ms, one_time_keys_max=settings.one_time_keys_max
        ),
        mailbox=MailboxSteps(
            unit_of_work=units,
            doorbells=doorbells,
            rows_per_sender_max=settings.mailbox_rows_per_sender_max,
            rows_max=settings.mailbox_rows_max,
        ),
        rooms=RoomSteps(
            units,
            doorbells=doorbells,
            clock=now_ms,
            server_name=settings.server_name,
            members_max=settings.room_members_max,
        ),
        streams=StreamSteps(units),
        checkpoints=Checkpoints(
            units,
            signer=keys_.checkpoint,
            clock=now_ms,
            server_name=settings.server_name,
            generation=store.identity.generation.number,
        ),
        proofs=proofs,
        signing_keys=signing_keys,
        key_turns=_key_turns(settings, store, signing_keys),
    )


def _lifetimes(settings: Settings) -> Lifetimes:
    return Lifetimes(idle_s=settings.refresh_idle_lifetime_s, absolute_s=settings.refresh_absolute_lifetime_s)


def _throttle(settings: Settings, limits: Limits) -> LoginThrottle:
    return LoginThrottle(limits, free_count=settings.login_free_count, delay_max_s=settings.login_delay_max_s)


def _key_turns(settings: Settings, store: Store, signing_keys: SigningKeys) -> SigningKeySteps:
    return SigningKeySteps(
        signing_keys,
        units=store.units,
        sealer=store.keys.sealer,
        random=os.urandom,
        clock_s=now_s,
        prepare_s=settings.signing_key_prepare_s,
        rotation_age_s=settings.signing_key_rotation_days * 86_400,
    )
