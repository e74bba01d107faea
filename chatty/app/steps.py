"""Every feature's steps, made of settings, store and each other."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from chatty.app.database import Store, master_reader
from chatty.app.process import now_s
from chatty.config import Settings, parse_derivations
from chatty.crypto.nonces import Nonces, login_slot_s
from chatty.crypto.passkeys import RelyingParty
from chatty.crypto.passwords import ALGORITHM
from chatty.crypto.tokens import AccessTokens, RefreshTokens
from chatty.services.accounts import AccountSteps
from chatty.services.audit import AuditSteps, erasure_lead_s
from chatty.services.blocks import BlockSteps
from chatty.services.checkpoints import Checkpoints
from chatty.services.cleanup import Ages, CleanupSteps
from chatty.services.console import ConsoleSteps
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.deletions import DeletionSteps, receipt_lifetime_s
from chatty.services.devices import DeviceSteps
from chatty.services.doorbells import Doorbells
from chatty.services.dpop import Proofs
from chatty.services.exports import ExportSteps
from chatty.services.factor_check import FactorCheck
from chatty.services.issuer import Issuer
from chatty.services.key_revocation import KeyRevocation
from chatty.services.key_rotation import KeyRotation, RotationPolicy
from chatty.services.keys import KeySteps
from chatty.services.limits import Limits
from chatty.services.login_throttle import FactorThrottle, LoginThrottle
from chatty.services.mailbox import MailboxSteps
from chatty.services.passwords import PasswordSteps
from chatty.services.permissions import Policy
from chatty.services.preferences import PreferenceSteps
from chatty.services.quotas import Quotas, make_quotas
from chatty.services.receipts import ReceiptSteps
from chatty.services.registration import RegistrationSteps, request_age_s_max
from chatty.services.rewrapping import Rewrapping
from chatty.services.room_directory import DirectorySteps
from chatty.services.rooms import RoomSteps
from chatty.services.second_factors import SecondFactorSteps
from chatty.services.sessions import SessionSteps
from chatty.services.statistics import CountStatistics
from chatty.services.streams import StreamSteps
from chatty.services.tokens import Lifetimes, TokenSteps
from chatty.services.users import UserSteps
from chatty.wire.accounts import KeyDerivation


class Throttles:
    """How fast passwords and second factors may be tried, whatever step tries them."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self.logins = LoginThrottle(
            limits, free_count=settings.login_free_count, delay_max_s=settings.login_delay_max_s
        )
        self.factors = FactorThrottle(
            limits,
            free_count=settings.second_factor_free_count,
            delay_max_s=settings.second_factor_delay_max_s,
        )

    def forget_old(self) -> None:
        self.logins.forget_old()
        self.factors.forget_old()


@dataclass(frozen=True, kw_only=True)
class Steps:
    accounts: AccountSteps
    passwords: PasswordSteps
    blocks: BlockSteps
    preferences: PreferenceSteps
    receipts: ReceiptSteps
    exports: ExportSteps
    deletions: DeletionSteps
    sessions: SessionSteps
    tokens: TokenSteps
    second_factors: SecondFactorSteps
    registration: RegistrationSteps
    users: UserSteps
    console: ConsoleSteps
    audit: AuditSteps
    devices: DeviceSteps
    keys: KeySteps
    mailbox: MailboxSteps
    rooms: RoomSteps
    directory: DirectorySteps
    streams: StreamSteps
    checkpoints: Checkpoints
    policy: Policy
    quotas: Quotas
    throttles: Throttles
    proofs: Proofs
    key_rotation: KeyRotation
    key_revocation: KeyRevocation
    cleanup: CleanupSteps
    statistics: CountStatistics


def make_steps(
    settings: Settings,
    store: Store,
    doorbells: Doorbells,
    limits: Limits,
    *,
    clock_s: Callable[[], float] = now_s,
    crash_points: CrashPoints = NO_CRASH_POINTS,
) -> Steps:
    """clock_s: s since 1970."""
    make = _Maker(settings, store, doorbells, limits, clock_s, crash_points)
    rotation = make.key_rotation()
    return Steps(
        accounts=make.accounts(),
        passwords=make.passwords(),
        exports=make.exports(),
        deletions=make.deletions(),
        blocks=BlockSteps(
            unit_of_work=store.units, limits=limits, quotas=make.quotas, doorbells=doorbells, clock_ms=make.clock_ms
        ),
        preferences=PreferenceSteps(store.units, doorbells=doorbells, clock_ms=make.clock_ms),
        receipts=ReceiptSteps(store.units),
        sessions=make.sessions(),
        tokens=make.tokens(),
        second_factors=make.second_factors(),
        registration=RegistrationSteps(unit_of_work=store.units, mode=settings.registration_mode),
        users=UserSteps(unit_of_work=store.units, doorbells=doorbells, clock_ms=make.clock_ms),
        console=ConsoleSteps(unit_of_work=store.units, doorbells=doorbells, quotas=make.quotas, clock_ms=make.clock_ms),
        audit=AuditSteps(unit_of_work=store.units),
        devices=DeviceSteps(unit_of_work=store.units, doorbells=doorbells, clock_ms=make.clock_ms),
        keys=make.keys(),
        mailbox=make.mailbox(),
        rooms=make.rooms(),
        directory=DirectorySteps(store.units),
        streams=StreamSteps(store.units),
        checkpoints=make.checkpoints(),
        policy=Policy(admin_networks=settings.operator_networks, step_up_lifetime_s=settings.step_up_lifetime_s),
        quotas=make.quotas,
        throttles=make.throttles,
        proofs=make.proofs,
        key_rotation=rotation,
        key_revocation=make.key_revocation(rotation),
        cleanup=CleanupSteps(units=store.units, ages=ages(settings), clock=make.clock_ms),
        statistics=CountStatistics(units=store.units),
    )


def ages(settings: Settings) -> Ages:
    return Ages(
        retention_days=settings.message_retention_days,
        lifetimes=lifetimes(settings),
        receipt_s=receipt_lifetime_s,
        request_s=request_age_s_max,
        address_s=settings.address_retention_days * 86_400 - erasure_lead_s,
    )


def lifetimes(settings: Settings) -> Lifetimes:
    return Lifetimes(idle_s=settings.refresh_idle_lifetime_s, absolute_s=settings.refresh_absolute_lifetime_s)


def rotation_policy(settings: Settings) -> RotationPolicy:
    return RotationPolicy(
        rotation_age_s={kind: age * 86_400 for kind, age in settings.key_rotation_days.items()},
        master_age_s_max=settings.master_key_days_max * 86_400,
        prepare_s=settings.key_prepare_s,
        refresh_kept_s=settings.refresh_absolute_lifetime_s,
    )


def key_derivations(settings: Settings) -> list[KeyDerivation]:
    """What the server names, the first for new passwords."""
    named = parse_derivations(settings.key_derivations)
    return [KeyDerivation(algorithm=ALGORITHM, memory_bytes=memory, passes=passes) for memory, passes in named]


class _Maker:
    """What several features share, and a method for each that needs more than the store."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        doorbells: Doorbells,
        limits: Limits,
        clock_s: Callable[[], float],
        crash_points: CrashPoints,
    ) -> None:
        origin, keys = settings.public_origin, store.keys
        keys.clock_s = clock_s
        self._crash_points = crash_points
        self._rewrapping = Rewrapping(keys, units=store.units, crash_points=crash_points)
        self._settings, self._store, self._doorbells, self._limits = settings, store, doorbells, limits
        self._clock_s = clock_s
        self.quotas = make_quotas(settings)
        self._access = AccessTokens(keys.signing, origin=origin, lifetime_s=int(settings.access_token_lifetime_s))
        self._refresh = RefreshTokens(keys.refresh_keys)
        self.proofs = Proofs(Nonces(keys.nonce_keys, purpose="dpop"), origin=origin, clock_s=clock_s)
        self.throttles = Throttles(settings, limits)
        self._throttle = self.throttles.logins
        self._issuer = Issuer(
            access=self._access,
            refresh=self._refresh,
            nonces=Nonces(keys.nonce_keys, purpose="login", slot_s=login_slot_s),
            origin=origin,
            clock_s=clock_s,
            generation=store.identity.generation.number,
        )
        self._party = RelyingParty(rp_id=settings.relying_party_id, origin=origin)

    def clock_ms(self) -> int:
        return int(self._clock_s() * 1000)

    def passwords(self) -> PasswordSteps:
        return PasswordSteps(
            unit_of_work=self._store.units,
            doorbells=self._doorbells,
            issuer=self._issuer,
            sealer=self._store.keys.sealer,
            throttle=self._throttle,
            key_derivations=key_derivations(self._settings),
        )

    def deletions(self) -> DeletionSteps:
        return DeletionSteps(
            unit_of_work=self._store.units,
            doorbells=self._doorbells,
            issuer=self._issuer,
            sealer=self._store.keys.sealer,
            throttle=self._throttle,
            server_name=self._settings.server_name,
        )

    def exports(self) -> ExportSteps:
        return ExportSteps(
            unit_of_work=self._store.units,
            limits=self._limits,
            quotas=self.quotas,
            server_name=self._settings.server_name,
            clock_s=self._clock_s,
        )

    def accounts(self) -> AccountSteps:
        return AccountSteps(
            unit_of_work=self._store.units,
            issuer=self._issuer,
            sealer=self._store.keys.sealer,
            salt_key=self._store.keys.salt_key,
            server_name=self._settings.server_name,
            mode=self._settings.registration_mode,
            key_derivations=key_derivations(self._settings),
            limits=self._limits,
            reserved_names=[name.strip() for name in self._settings.reserved_names.split(",")],
            requests_max=self._settings.registration_requests_max,
        )

    def sessions(self) -> SessionSteps:
        return SessionSteps(
            unit_of_work=self._store.units,
            doorbells=self._doorbells,
            issuer=self._issuer,
            refresh=self._refresh,
            sealer=self._store.keys.sealer,
            throttle=self._throttle,
            quotas=self.quotas,
            factors=self._factor_check(),
        )

    def _factor_check(self) -> FactorCheck:
        return FactorCheck(
            unit_of_work=self._store.units,
            doorbells=self._doorbells,
            sealer=self._store.keys.sealer,
            party=self._party,
            handle_key=self._store.keys.salt_key,
            throttle=self.throttles.factors,
            clock_s=self._clock_s,
        )

    def second_factors(self) -> SecondFactorSteps:
        return SecondFactorSteps(
            unit_of_work=self._store.units,
            doorbells=self._doorbells,
            issuer=self._issuer,
            sealer=self._store.keys.sealer,
            party=self._party,
            handle_key=self._store.keys.salt_key,
            issuer_name=self._settings.server_name,
            clock_s=self._clock_s,
        )

    def tokens(self) -> TokenSteps:
        return TokenSteps(
            unit_of_work=self._store.units,
            doorbells=self._doorbells,
            issuer=self._issuer,
            access=self._access,
            refresh=self._refresh,
            proofs=self.proofs,
            keys=self._store.keys,
            lifetimes=lifetimes(self._settings),
            throttle=self._throttle,
            clock_s=self._clock_s,
        )

    def keys(self) -> KeySteps:
        return KeySteps(
            unit_of_work=self._store.units,
            doorbells=self._doorbells,
            clock_ms=self.clock_ms,
            limits=self._limits,
            one_time_keys_max=self._settings.one_time_keys_max,
        )

    def mailbox(self) -> MailboxSteps:
        return MailboxSteps(
            unit_of_work=self._store.units,
            doorbells=self._doorbells,
            rows_per_sender_max=self._settings.mailbox_rows_per_sender_max,
            rows_max=self._settings.mailbox_rows_max,
        )

    def rooms(self) -> RoomSteps:
        return RoomSteps(
            self._store.units,
            doorbells=self._doorbells,
            clock=self.clock_ms,
            server_name=self._settings.server_name,
            limits=self._limits,
            quotas=self.quotas,
        )

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(
            self._store.units,
            signer=self._store.keys.checkpoint,
            clock=self.clock_ms,
            server_name=self._settings.server_name,
            generation=self._store.identity.generation.number,
        )

    def key_rotation(self) -> KeyRotation:
        return KeyRotation(
            self._store.keys,
            units=self._store.units,
            rewrapping=self._rewrapping,
            read_master=master_reader(self._settings),
            server_name=self._settings.server_name,
            policy=rotation_policy(self._settings),
            random=os.urandom,
            crash_points=self._crash_points,
        )

    def key_revocation(self, rotation: KeyRotation) -> KeyRevocation:
        return KeyRevocation(
            self._store.keys,
            units=self._store.units,
            rotation=rotation,
            rewrapping=self._rewrapping,
            read_master=master_reader(self._settings),
        )
