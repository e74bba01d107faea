"""Who asks: made of a checked access token, by services/sessions.py and by nothing else."""

from dataclasses import dataclass

from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A signed-in device. expires_at_s: seconds since 1970, when its access token ends."""

    user: UserId
    user_number: UserNumber
    device: DeviceId
    device_number: DeviceNumber
    family: FamilyId
    role: str
    expires_at_s: float
