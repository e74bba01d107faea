"""Who asks: made of a checked access token and proof, by services/tokens.py and by nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A signed-in device. expires_at_s: seconds since 1970, when its access token ends. token_key_id: of the key that signed it.

    thumbprint: of its DPoP key. step_up_age_s: since its user last proved who they are. is_verified: vouched for by the user's
    other devices, which is nobody until cross-signing exists.
    """

    user: UserId
    user_number: UserNumber
    device: DeviceId
    device_number: DeviceNumber
    family: FamilyId
    role: str
    thumbprint: str
    step_up_age_s: float
    expires_at_s: float
    is_verified: bool = False
    token_key_id: str = ""


_operator: ContextVar[Caller | None] = ContextVar("operator", default=None)


def current_operator() -> Caller | None:
    """Who uses the console in this task, from elsewhere; None: nobody, or the operator on the machine."""
    return _operator.get()


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """What is done in the block is done through the console, by this caller: the audit log names who it was."""
    token = _operator.set(caller)
    try:
        yield
    finally:
        _operator.reset(token)
