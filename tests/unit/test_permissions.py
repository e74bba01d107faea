"""Role × permission × context, in full: nothing is held that is not written here."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from chatty.errors import ChattyError, DeviceNotVerified, Forbidden, Outranked, StepUpRequired, Unauthenticated
from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber
from chatty.services import permissions
from chatty.services.caller import Caller
from chatty.services.permissions import (
    FRAMES,
    MANAGE_USERS,
    PERMISSIONS,
    ROLES,
    SIGNED_IN,
    Permission,
    Policy,
    check_act,
    check_tables,
    outranks,
    rights,
)
from chatty.wire import frames

EVERYBODY = {"owner", "admin", "moderator", "auditor", "user", "bot"}
HOLDERS = {
    "public": EVERYBODY | {"nobody"},
    "signed_in": EVERYBODY,
    "chat": {"owner", "admin", "moderator", "user", "bot"},
    "own_security": EVERYBODY,
    "read_users": {"owner", "admin", "moderator", "auditor"},
    "moderate_users": {"owner", "admin", "moderator"},
    "manage_users": {"owner", "admin"},
    "read_audit": {"owner", "auditor"},
    "use_console": {"owner", "admin", "moderator", "auditor"},
    "operate": {"owner"},
}
NEED_STEP_UP = {"own_security", "moderate_users", "manage_users", "operate"}
NEED_NETWORK = {"read_users", "moderate_users", "manage_users", "read_audit", "use_console", "operate"}
HOME, ELSEWHERE = "10.1.2.3", "203.0.113.9"
POLICY = Policy(admin_networks=[ip_network("10.0.0.0/8")], step_up_lifetime_s=600.0)


def caller(role: str) -> Caller:
    return Caller(
        user=UserId("@ann:x"),
        user_number=UserNumber(1),
        device=DeviceId("DEVICE01"),
        device_number=DeviceNumber(1),
        family=FamilyId("f"),
        role=role,
        thumbprint="T" * 43,
        step_up_age_s=600.0,
        expires_at_s=0.0,
    )


def refusal(permission: Permission, asking: Caller | None, *, address: str = HOME, policy: Policy = POLICY) -> str:
    try:
        policy.check(permission, asking, address=address)
    except ChattyError as error:
        return error.code
    return "allowed"


@pytest.mark.parametrize("role", [*ROLES, "nobody"])
@pytest.mark.parametrize("name", sorted(PERMISSIONS))
def test_a_role_holds_exactly_what_is_written(name: str, role: str) -> None:
    asking = None if role == "nobody" else caller(role)
    expected = "allowed" if role in HOLDERS[name] else (Unauthenticated if asking is None else Forbidden).code
    assert refusal(PERMISSIONS[name], asking) == expected


@pytest.mark.parametrize("name", sorted(PERMISSIONS))
def test_what_is_dangerous_needs_a_fresh_proof(name: str) -> None:
    stale = replace(caller("owner"), step_up_age_s=600.1)
    assert refusal(PERMISSIONS[name], stale) == (StepUpRequired.code if name in NEED_STEP_UP else "allowed")


@pytest.mark.parametrize("name", sorted(PERMISSIONS))
def test_operators_act_from_their_networks(name: str) -> None:
    expected = Forbidden.code if name in NEED_NETWORK else "allowed"
    for address in (ELSEWHERE, "", "no address", "::1"):
        assert refusal(PERMISSIONS[name], caller("owner"), address=address) == expected
    assert refusal(PERMISSIONS[name], caller("owner"), address=ELSEWHERE, policy=Policy()) == "allowed"


def test_a_verified_device_can_be_asked_for_and_is_by_no_permission_yet() -> None:
    asked = replace(SIGNED_IN, needs_verified_device=True)
    assert refusal(asked, caller("user")) == DeviceNotVerified.code
    assert refusal(asked, replace(caller("user"), is_verified=True)) == "allowed"
    assert not any(permission.needs_verified_device for permission in PERMISSIONS.values())


def test_a_role_that_nobody_knows_may_nothing_but_what_everybody_may() -> None:
    assert refusal(PERMISSIONS["public"], caller("emperor")) == "allowed"
    assert {refusal(one, caller("emperor")) for name, one in PERMISSIONS.items() if name != "public"} == {"forbidden"}


ABOVE = {
    "owner": {"owner", "admin", "moderator", "auditor", "user", "bot"},
    "admin": {"moderator", "user", "bot"},
    "moderator": {"user", "bot"},
    "auditor": set(),
    "user": set(),
    "bot": set(),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_stands_above_exactly_these(role: str) -> None:
    assert {other for other in ROLES if outranks(role, other)} == ABOVE[role]


def test_whoever_acts_holds_the_permission_and_stands_above_all_that_it_touches() -> None:
    check_act(MANAGE_USERS, "admin", "user", "moderator")
    for refused, role, others in (
        (Forbidden, "moderator", ("user",)),
        (Outranked, "admin", ("user", "admin")),
        (Outranked, "admin", ("auditor",)),
        (Forbidden, "", ("user",)),
    ):
        with pytest.raises(refused):
            check_act(MANAGE_USERS, role, *others)


def test_nobody_gets_a_right_from_below() -> None:
    """Whoever stands above somebody holds all of its rights: no act on others and no invitation makes a right appear."""
    for role in ROLES:
        for other in ROLES:
            if outranks(role, other):
                assert rights(other) <= rights(role)


def test_every_frame_declares_a_permission_or_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tables()
    without_ping = {kind: one for kind, one in FRAMES.items() if kind is not frames.Ping}
    monkeypatch.setattr(permissions, "FRAMES", without_ping)
    with pytest.raises(TypeError, match="Ping"):
        check_tables()
    strange: dict[type[Any], Permission] = {**FRAMES, frames.Ping: replace(SIGNED_IN, roles=None)}
    monkeypatch.setattr(permissions, "FRAMES", strange)
    with pytest.raises(TypeError, match="signed_in"):
        check_tables()
