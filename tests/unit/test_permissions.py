"""Role × permission, in full: nothing is held that is not written here."""

import pytest

from chatty.errors import Forbidden, Unauthenticated
from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.permissions import PERMISSIONS, ROLES, check

HOLDERS = {
    "public": {"owner", "admin", "moderator", "auditor", "user", "bot", "nobody"},
    "signed_in": {"owner", "admin", "moderator", "auditor", "user", "bot"},
    "chat": {"owner", "admin", "moderator", "user", "bot"},
}


def caller(role: str) -> Caller:
    return Caller(
        user=UserId("@ann:x"),
        user_number=UserNumber(1),
        device=DeviceId("DEVICE01"),
        device_number=DeviceNumber(1),
        family=FamilyId("f"),
        role=role,
        expires_at_s=0.0,
    )


@pytest.mark.parametrize("role", [*ROLES, "nobody"])
@pytest.mark.parametrize("name", sorted(PERMISSIONS))
def test_a_role_holds_exactly_what_is_written(name: str, role: str) -> None:
    asking = None if role == "nobody" else caller(role)
    if role in HOLDERS[name]:
        check(PERMISSIONS[name], asking)
        return
    with pytest.raises(Unauthenticated if asking is None else Forbidden):
        check(PERMISSIONS[name], asking)


def test_a_role_that_nobody_knows_may_nothing_but_what_everybody_may() -> None:
    check(PERMISSIONS["public"], caller("emperor"))
    with pytest.raises(Forbidden):
        check(PERMISSIONS["signed_in"], caller("emperor"))
