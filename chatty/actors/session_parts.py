"""What every session of a node shares."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from chatty.actors.directory import Directory
from chatty.actors.presence import PresenceBook
from chatty.actors.receipts import ReadCursorWriter
from chatty.actors.rooms import RoomActors
from chatty.actors.typing_notices import TypingNotices
from chatty.errors import ChattyError
from chatty.services.caller import Caller
from chatty.services.checkpoints import Checkpoints
from chatty.services.limits import Limits, unlimited
from chatty.services.permissions import Policy
from chatty.services.preferences import PreferenceSteps
from chatty.services.quotas import Quotas
from chatty.services.receipts import ReceiptSteps
from chatty.services.streams import StreamSteps
from chatty.telemetry import Metrics
from chatty.wire import frames


@dataclass(frozen=True, kw_only=True)
class SessionLimits:
    outbox_bytes_max: int
    outbox_write_timeout_s: float
    frame_bytes_max: int
    hello_timeout_s: float
    heartbeat_interval_s: float
    append_timeout_s: float


@dataclass(frozen=True, kw_only=True)
class SessionParts:
    """What every session of a node shares. authenticate: of an access token, a DPoP proof and the connection's nonce.
    asking: how often one may ask, beside the bounds in `limits`. clock_s: s since 1970. greetings: how many hellos are worked on
    at once; after a restart the others wait in order, and those who are in are served meanwhile.
    """

    directory: Directory
    rooms: RoomActors
    streams: StreamSteps
    checkpoints: Checkpoints
    policy: Policy
    quotas: Quotas
    authenticate: Callable[[str, str, str], Awaitable[Caller]]
    make_nonce: Callable[[], str]
    generation: frames.Generation
    error_frame: Callable[[int, ChattyError], frames.Error]
    metrics: Metrics
    preferences: PreferenceSteps
    receipts: ReceiptSteps
    read_cursors: ReadCursorWriter
    typing: TypingNotices
    presence: PresenceBook
    clock_s: Callable[[], float]
    greetings: trio.CapacityLimiter
    limits: SessionLimits
    asking: Limits = field(default_factory=unlimited)
