"""What can go wrong between an actor and those who talk to it.

ActorError
├─ MailboxFull        tell, ask: the mailbox is at its bound; nothing was queued
├─ ActorStopped       tell, ask: it has stopped for good, or is draining; wait and retry does not help
├─ ActorCrashed       ask: the request crashed the actor twice, the second time alone, and is in quarantine
├─ StartFailed        start, get: it raised, returned, or took too long before it was ready
├─ AskTimeout         ask: no answer in time; the request may still take effect, so askers are idempotent
└─ SupervisorFailed   out of open_supervisor: the root's restart intensity was exceeded
AskOutOfOrder         a bug, not a condition: outside the tree above, so that no handler takes it for an answer
"""

import trio


class ActorError(Exception):
    """Names the actor it is about, and never the content of a message."""

    summary = "actor error"

    def __init__(self, actor: str = "", reason: str = "") -> None:
        super().__init__(": ".join(part for part in (actor, self.summary, reason) if part))
        self.actor = actor
        self.reason = reason


class MailboxFull(ActorError):
    summary = "mailbox full"


class ActorStopped(ActorError):
    summary = "stopped"


class ActorCrashed(ActorError):
    summary = "crashed"


class StartFailed(ActorError):
    """Its `__cause__` is what the actor raised, where it raised."""

    summary = "did not start"


class AskTimeout(ActorError, trio.TooSlowError):
    summary = "no answer in time"


class SupervisorFailed(ActorError):
    """Its `__cause__` is the last failure, the one that was too many."""

    summary = "restart intensity exceeded"


class AskOutOfOrder(RuntimeError):
    """An actor asked itself, a sibling in its own registry, or a later branch: a circle of waiting could exist."""
