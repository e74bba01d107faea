"""The branches of the actor tree, each started with what it needs (docs/architecture.md, "The tree")."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from chatty.actors.bus import SilentBus
from chatty.actors.directory import Directory
from chatty.actors.job_board import Job
from chatty.actors.journal import Entry, JournalParts, blocking_journal_actor, journal_actor
from chatty.actors.presence import PresenceBook
from chatty.actors.receipts import ReadCursorWriter
from chatty.actors.rooms import RoomActors, RoomParts
from chatty.actors.runtime import (
    ActorSpec,
    Mailbox,
    Supervisor,
)
from chatty.actors.session_parts import SessionLimits, SessionParts
from chatty.actors.typing_notices import TypingNotices
from chatty.actors.typing_notices import interval_s as typing_interval_s
from chatty.actors.watch import compare_actor, deadline_actor, forget_actor, look_actor, revocation_actor
from chatty.app.backups import NewestBackup, Schedule
from chatty.app.database import Store
from chatty.app.observation import CrashBook, counting_error_frame, delivery_clock
from chatty.app.process import Hooks, generous, now_ms, now_s
from chatty.app.steps import Steps, lifetimes
from chatty.config import Settings
from chatty.services.audit import EraseAddresses, SealAudit
from chatty.services.cleanup import OrphanCleanup
from chatty.services.deletions import CleanUpReceipts
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.erasure import EraseAccounts
from chatty.services.expiry import Cleaned, MessageCleanup
from chatty.services.integrity import CheckIntegrity
from chatty.services.limits import Limits
from chatty.services.owed_devices import AppendOwedDevices, CleanUpRevocations
from chatty.services.registration import CleanUpRegistrations
from chatty.services.sessions import EndExpiredSessions
from chatty.services.sizes import SampleSizes
from chatty.store.audit_heads import DiskHeadFile, heads_path
from chatty.telemetry import Metrics

log = structlog.get_logger("chatty.app")

room_idle_timeout_s = 300.0
deadline_look_interval_s = 0.25
forget_interval_s = 60.0
crashes_flush_interval_s = 2.0
cleanup_interval_s = 5.0
housekeeping_first_s = 30.0
integrity_first_s = 600.0
read_cursors_look_interval_s = 0.25
server_keys_read_interval_s = 5.0  # at most; always several times while a new key is prepared
key_rotation_interval_s = 5.0


class LateDoorbells(Doorbells):
    """Services are made before the actors that hear them; until then nobody is connected."""

    def __init__(self) -> None:
        self._inner: Doorbells = SilentBus()
        self._janitor_wake: Callable[[str], None] | None = None

    def connect(self, inner: Doorbells, wake: Callable[[str], None]) -> None:
        self._inner, self._janitor_wake = inner, wake

    def ring(self, doorbell: Doorbell) -> None:
        self._inner.ring(doorbell)
        if self._janitor_wake is not None and doorbell.users and doorbell.rooms:
            self._janitor_wake(AppendOwedDevices.name)


def make_jobs(
    settings: Settings, store: Store, steps: Steps, doorbells: Doorbells, hooks: Hooks, metrics: Metrics
) -> list[Job]:
    """What the janitor does. To add a job, add a line here: what has a name and a step() is a job.

    audit_sealing: with the janitor's jitter, each row is sealed within a second.
    """
    owed = AppendOwedDevices(units=store.units, doorbells=doorbells, clock=now_ms)
    seal = SealAudit(
        units=store.units,
        signer=store.keys.audit,
        heads=DiskHeadFile(heads_path(settings.data_dir)),
        server=store.identity.name,
        generation=store.identity.generation.number,
        head_interval_s=settings.audit_head_interval_s,
        clock=now_ms,
        crash_points=hooks.crash_points,
    )
    erase = EraseAddresses(units=store.units, retention_days=settings.address_retention_days)
    erasure = EraseAccounts(
        units=store.units,
        doorbells=doorbells,
        signer=store.keys.checkpoint,
        server_name=settings.server_name,
        clock=now_ms,
        crash_points=hooks.crash_points,
    )
    cleanup = MessageCleanup(
        units=store.units,
        signer=store.keys.checkpoint,
        server_name=settings.server_name,
        retention_days=settings.message_retention_days,
        report=partial(report_cleanup, metrics),
        clock=now_ms,
        crash_points=hooks.crash_points,
    )
    receipts = CleanUpReceipts(units=store.units)
    revocations = CleanUpRevocations(units=store.units)
    expired = EndExpiredSessions(units=store.units, doorbells=doorbells, lifetimes=lifetimes(settings))
    registrations, rotation = CleanUpRegistrations(units=store.units), steps.key_rotation
    orphans = OrphanCleanup(units=store.units, crash_points=hooks.crash_points)
    integrity = CheckIntegrity(
        units=store.units, report=partial(report_integrity, metrics), crash_points=hooks.crash_points
    )
    sizes = SampleSizes(units=store.units)
    return [
        Job(name=owed.name, step=owed.step, interval_s=2.0),
        Job(name=erasure.name, step=erasure.step, interval_s=1.0),
        Job(name=cleanup.name, step=cleanup.step, interval_s=cleanup_interval_s, on_order=cleanup.look_now),
        Job(name=receipts.name, step=receipts.step, interval_s=3_600.0, first_look_s=housekeeping_first_s),
        Job(name=revocations.name, step=revocations.step, interval_s=60.0, first_look_s=housekeeping_first_s),
        Job(name=expired.name, step=expired.step, interval_s=600.0, first_look_s=housekeeping_first_s),
        Job(name=registrations.name, step=registrations.step, interval_s=3_600.0, first_look_s=housekeeping_first_s),
        Job(name=sizes.name, step=sizes.step, interval_s=3_600.0, first_look_s=housekeeping_first_s),
        Job(name=seal.name, step=seal.step, interval_s=0.5),
        Job(name=erase.name, step=erase.step, interval_s=3_600.0, first_look_s=housekeeping_first_s),
        Job(name=orphans.name, step=orphans.step, interval_s=3_600.0, first_look_s=housekeeping_first_s),
        Job(name=integrity.name, step=integrity.step, interval_s=86_400.0, first_look_s=integrity_first_s),
        Job(
            name=steps.statistics.name,
            step=steps.statistics.step,
            interval_s=3_600.0,
            first_look_s=housekeeping_first_s,
        ),
        Job(
            name=rotation.name, step=rotation.step, interval_s=min(key_rotation_interval_s, settings.key_prepare_s / 4)
        ),
    ]


def report_cleanup(metrics: Metrics, cleaned: Cleaned) -> None:
    metrics.messages_dropped.labels(what=cleaned.what).inc(cleaned.freed.rows_count)
    metrics.message_bytes_freed.labels(what=cleaned.what).inc(cleaned.freed.bytes_count)
    log.info(
        "messages.dropped",
        what=cleaned.what,
        rows_count=cleaned.freed.rows_count,
        bytes_freed=cleaned.freed.bytes_count,
        events_count=cleaned.events_count,
    )


def report_integrity(metrics: Metrics, found: Mapping[str, int]) -> None:
    for check, findings_count in found.items():
        metrics.integrity_findings.labels(check=check).set(findings_count)
        if findings_count:
            log.error("integrity.violated", check=check, findings_count=findings_count)


async def start_writing(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    hooks: Hooks,
    root: Supervisor,
    directory: Directory,
    steps: Steps,
) -> RoomActors:
    branch = await root.start_supervisor("journal", intensity=hooks.intensity)
    parts = JournalParts(
        journal=store.journal,
        metrics=metrics,
        crash_points=hooks.crash_points,
        batch_max=settings.journal_batch_max,
    )

    async def run_blocking(inbox: Mailbox[Entry]) -> None:
        await blocking_journal_actor(inbox, parts)

    blocking = await branch.start(ActorSpec(name="blocking", run=run_blocking, mailbox_count_max=1_024))

    async def run_journal(inbox: Mailbox[Entry]) -> None:
        await journal_actor(inbox, parts, blocking)

    journal = await branch.start(ActorSpec(name="group", run=run_journal, mailbox_count_max=settings.journal_queue_max))
    room_actors = RoomActors(
        RoomParts(
            journal=journal,
            streams=steps.streams,
            directory=directory,
            crash_points=hooks.crash_points,
            idle_timeout_s=room_idle_timeout_s,
            note_delivered=delivery_clock(metrics, append_timeout_s=settings.append_timeout_s),
        )
    )
    await room_actors.open(root, live_count_max=settings.rooms_live_max, intensity=hooks.intensity)
    return room_actors


async def start_watch(
    settings: Settings,
    store: Store,
    root: Supervisor,
    directory: Directory,
    steps: Steps,
    crashes: CrashBook,
    *,
    address: str,
    newest: NewestBackup,
) -> None:
    branch = await root.start_supervisor("watch", intensity=generous)

    async def run_compare(inbox: Mailbox[None]) -> None:
        await compare_actor(inbox, directory=directory, streams=steps.streams, interval_s=settings.compare_interval_s)

    async def run_revocations(inbox: Mailbox[None]) -> None:
        await revocation_actor(
            inbox,
            directory=directory,
            streams=steps.streams,
            interval_s=settings.revocation_poll_interval_s,
        )

    async def run_server_keys(inbox: Mailbox[None]) -> None:
        interval_s = min(server_keys_read_interval_s, settings.key_prepare_s / 4)
        await look_actor(inbox, look=store.keys.read, interval_s=interval_s)

    async def run_deadlines(inbox: Mailbox[None]) -> None:
        await deadline_actor(
            inbox,
            directory=directory,
            interval_s=deadline_look_interval_s,
            clock_s=now_s,
            is_revoked=store.keys.signing.is_revoked,
        )

    async def run_throttles(inbox: Mailbox[None]) -> None:
        await forget_actor(inbox, forget=steps.throttles.forget_old, interval_s=forget_interval_s)

    async def run_crashes(inbox: Mailbox[None]) -> None:
        await look_actor(inbox, look=crashes.flush, interval_s=crashes_flush_interval_s)

    await branch.start(ActorSpec(name="deadlines", run=run_deadlines, mailbox_count_max=1))
    await branch.start(ActorSpec(name="compare", run=run_compare, mailbox_count_max=1))
    await branch.start(ActorSpec(name="revocations", run=run_revocations, mailbox_count_max=1))
    await branch.start(ActorSpec(name="server_keys", run=run_server_keys, mailbox_count_max=1))
    await branch.start(ActorSpec(name="throttles", run=run_throttles, mailbox_count_max=1))
    await branch.start(ActorSpec(name="crashes", run=run_crashes, mailbox_count_max=1))
    schedule = Schedule(settings, address, newest)
    run = partial(look_actor, look=schedule.look, interval_s=schedule.look_interval_s)
    await branch.start(ActorSpec[None](name="backups", run=run, mailbox_count_max=1))


@dataclass(frozen=True, kw_only=True)
class NoticeBooks:
    """What a node keeps of notices, beside the actors that tell them."""

    typing: TypingNotices
    presence: PresenceBook
    read_cursors: ReadCursorWriter


async def start_notices(
    settings: Settings, metrics: Metrics, root: Supervisor, directory: Directory, steps: Steps
) -> NoticeBooks:
    branch = await root.start_supervisor("notices", intensity=generous)
    books = NoticeBooks(
        typing=TypingNotices(directory, metrics),
        presence=PresenceBook(
            directory,
            metrics,
            clock_s=now_s,
            idle_after_s=settings.presence_idle_after_s,
            is_on=settings.presence,
        ),
        read_cursors=ReadCursorWriter(directory, steps.receipts, interval_s=settings.receipts_interval_s),
    )
    looks = {
        "typing": (books.typing.look, typing_interval_s),
        "presence": (books.presence.look, settings.presence_interval_s),
        "read_cursors": (books.read_cursors.look, min(settings.receipts_interval_s, read_cursors_look_interval_s)),
    }
    for name, (look, interval_s) in looks.items():
        run = partial(look_actor, look=look, interval_s=interval_s)
        await branch.start(ActorSpec[None](name=name, run=run, mailbox_count_max=1))
    return books


def session_parts(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    directory: Directory,
    room_actors: RoomActors,
    steps: Steps,
    limits: Limits,
    notices: NoticeBooks,
) -> SessionParts:
    return SessionParts(
        directory=directory,
        rooms=room_actors,
        streams=steps.streams,
        checkpoints=steps.checkpoints,
        policy=steps.policy,
        quotas=steps.quotas,
        authenticate=lambda token, proof, nonce: steps.tokens.authenticate_on_socket(token, proof, nonce=nonce),
        make_nonce=lambda: secrets.token_urlsafe(16),
        generation=store.identity.generation,
        error_frame=counting_error_frame(metrics),
        metrics=metrics,
        asking=limits,
        preferences=steps.preferences,
        receipts=steps.receipts,
        read_cursors=notices.read_cursors,
        typing=notices.typing,
        presence=notices.presence,
        clock_s=now_s,
        greetings=trio.CapacityLimiter(settings.hellos_max),
        limits=SessionLimits(
            outbox_bytes_max=settings.outbox_bytes_max,
            outbox_write_timeout_s=settings.outbox_write_timeout_s,
            frame_bytes_max=settings.frame_bytes_max,
            hello_timeout_s=settings.hello_timeout_s,
            heartbeat_interval_s=settings.heartbeat_interval_s,
            append_timeout_s=settings.append_timeout_s,
        ),
    )
