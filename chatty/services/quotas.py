"""How much one account may have, by its server role. Each quota is a setting: a count, and perhaps others for some roles.

| quota | counts | of whose role |
|---|---|---|
| `devices` | living devices of an account | the account's |
| `rooms` | rooms that an account created | the account's |
| `room_members` | members of a room | its creator's |
| `blocks` | users that an account has blocked | the account's |
| `message_bytes` | bytes of one message's ciphertext | the sender's |
"""

from dataclasses import dataclass, fields

from chatty.config import Quota, Settings
from chatty.errors import BadConfiguration, QuotaExceeded, TooLarge
from chatty.services.permissions import ROLES, USER_ROLE


@dataclass(frozen=True, kw_only=True)
class Quotas:
    devices: Quota
    rooms: Quota
    room_members: Quota
    message_bytes: Quota
    blocks: Quota

    def shown(self, role: str) -> dict[str, int]:
        """By their names, for this role."""
        return {field.name: getattr(self, field.name).of(role) for field in fields(self)}

    def check_rooms(self, role: str, *, created_count: int) -> None:
        """Before one more is made. Raises: QuotaExceeded."""
        _check("rooms", self.rooms, role, created_count)

    def check_room_members(self, creator_role: str | None, *, joined_count: int) -> None:
        """Before one more joins. creator_role: None if the creator is gone. Raises: QuotaExceeded."""
        _check("room_members", self.room_members, creator_role or USER_ROLE, joined_count)

    def check_blocks(self, role: str, *, count: int) -> None:
        """Before one more. Raises: QuotaExceeded."""
        _check("blocks", self.blocks, role, count)

    def check_message(self, role: str, *, size_bytes: int) -> None:
        """Raises: TooLarge."""
        bytes_max = self.message_bytes.of(role)
        if size_bytes > bytes_max:
            raise TooLarge(limit="quota_message_bytes", bytes_max=bytes_max)


def make_quotas(settings: Settings) -> Quotas:
    """Raises: BadConfiguration for a role that does not exist."""
    quotas = settings.quotas
    unknown = {role for quota in quotas.values() for role in quota.by_role} - set(ROLES)
    if unknown:
        raise BadConfiguration(f"quotas name roles that do not exist: {', '.join(sorted(unknown))}")
    return Quotas(**quotas)


def _check(name: str, quota: Quota, role: str, count: int) -> None:
    if count >= quota.of(role):
        raise QuotaExceeded(quota=name, count_max=quota.of(role))
