"""The one place where the runtime's errors become domain errors."""

from chatty.actors.runtime import ActorCrashed, ActorError, ActorStopped, AskTimeout, MailboxFull, StartFailed
from chatty.errors import (
    ChattyError,
    InternalError,
    OutcomeUnknown,
    Overloaded,
    RequestQuarantined,
    ShuttingDown,
    StoreUnavailable,
)

retry_after_full_s = 0.5


def domain_error(error: Exception) -> ChattyError:
    """What the asker is told: nothing was done, or it may have been."""
    match error:
        case ChattyError():
            return error
        case MailboxFull():
            return Overloaded(limiter="mailbox", retry_after_s=retry_after_full_s)
        case AskTimeout():
            return OutcomeUnknown("not answered in time")
        case ActorCrashed():
            return RequestQuarantined("it crashed what handled it and was put aside")
        case StartFailed():
            cause = error.__cause__
            return cause if isinstance(cause, ChattyError) else StoreUnavailable("the room could not be loaded")
        case ActorStopped():
            return ShuttingDown("draining")
        case ActorError():
            return OutcomeUnknown("the actor ended")
        case _:
            return InternalError("a fault of the server")
