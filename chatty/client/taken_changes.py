"""Signed changes that a room has taken, so that none is taken twice.

A signature stays good for ever: a server that shows an old promotion, kick or policy again, at a new place, shows what its
signer really signed. But n names one request of a device for ever, so a signature that comes again is the server's doing.
*Bound*: of each device the newest limits.send_window numbers. What is older cannot come behind them: an honest server has
refused it (`message_id_closed`).
"""

from msgspec import Struct

from chatty.ids import DeviceId, SendNumber, Seq
from chatty.wire.events import TimelineEvent
from chatty.wire.limits import send_window


class TakenChanges(Struct, kw_only=True):
    """signatures: of each device by n. Who signs two changes under one n has itself to blame: the newer one is remembered.

    newest_seq: where the last of them stands.
    """

    signatures: dict[DeviceId, dict[SendNumber, bytes]] = {}
    newest_seq: Seq = Seq(0)

    def has(self, event: TimelineEvent) -> bool:
        """Did this signed change stand at an earlier place, or is its n too old to come now?"""
        taken = self.signatures.get(event.device, {})
        return event.n <= max(taken, default=0) - send_window or taken.get(event.n) == event.signature

    def take(self, event: TimelineEvent) -> None:
        taken = self.signatures.setdefault(event.device, {})
        taken[event.n] = event.signature
        self.newest_seq = event.seq
        newest = max(taken)
        for old in [n for n in taken if n <= newest - send_window]:
            del taken[old]
