"""Supervised actors on Trio; knows nothing of chat. `docs/runtime.md` has the tree, the rules and what they cost.

An actor is one async function over its mailbox. A supervisor runs it, restarts it when it crashes, and drains it.
"""

from chatty.actors.runtime.asks import Ask
from chatty.actors.runtime.errors import (
    ActorCrashed,
    ActorError,
    ActorStopped,
    AskOutOfOrder,
    AskTimeout,
    MailboxFull,
    StartFailed,
    SupervisorFailed,
)
from chatty.actors.runtime.mailbox import Mailbox
from chatty.actors.runtime.refs import ActorRef
from chatty.actors.runtime.registry import Registry
from chatty.actors.runtime.specs import ActorSpec, Intensity, Load, Observer, Restart, Sample, Snapshot, State
from chatty.actors.runtime.supervisor import Supervisor, open_supervisor

__all__ = [
    "ActorCrashed",
    "ActorError",
    "ActorRef",
    "ActorSpec",
    "ActorStopped",
    "Ask",
    "AskOutOfOrder",
    "AskTimeout",
    "Intensity",
    "Load",
    "Mailbox",
    "MailboxFull",
    "Observer",
    "Registry",
    "Restart",
    "Sample",
    "Snapshot",
    "StartFailed",
    "State",
    "Supervisor",
    "SupervisorFailed",
    "open_supervisor",
]
