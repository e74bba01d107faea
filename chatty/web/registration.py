"""Routes: invitations and applications. Registering itself stands in accounts.py."""

from typing import Annotated

from msgspec import Meta

from chatty.errors import NameTaken, NotFound, Outranked, RegistrationClosed
from chatty.services.caller import Caller
from chatty.services.permissions import MANAGE_USERS, READ_USERS
from chatty.services.registration import RegistrationSteps
from chatty.web.routes import Route, route
from chatty.wire import limits
from chatty.wire.accounts import Empty
from chatty.wire.registration import (
    AfterInvitationField,
    Applications,
    Decided,
    InvitationRequest,
    Invitations,
    MadeInvitation,
)
from chatty.wire.types import InvitationIdField

invitations_page_max = 200
CountField = Annotated[int, Meta(ge=1, le=invitations_page_max)]
NumberField = Annotated[int, Meta(ge=1, le=limits.integer_max)]


def routes(registration: RegistrationSteps) -> list[Route]:
    @route(
        "POST",
        "/v1/admin/invitations",
        permission=MANAGE_USERS,
        statuses=(201,),
        errors=(Outranked, RegistrationClosed),
    )
    async def invite(caller: Caller, body: InvitationRequest) -> MadeInvitation:
        """Make an invitation; its token is told this once."""
        return await registration.invite(caller, body)

    @route("GET", "/v1/admin/invitations", permission=READ_USERS)
    async def invitations(after: AfterInvitationField = "", limit: CountField = invitations_page_max) -> Invitations:
        """Those that can be used still, in the order of their ids."""
        return await registration.invitations(after=after, count_max=limit)

    @route("DELETE", "/v1/admin/invitations/{invitation}", permission=MANAGE_USERS, errors=(NotFound, Outranked))
    async def withdraw(caller: Caller, invitation: InvitationIdField) -> Empty:
        """Make an invitation void; accounts that were made with it stay."""
        await registration.withdraw(caller, invitation)
        return Empty()

    @route("GET", "/v1/admin/applications", permission=READ_USERS)
    async def pending() -> Applications:
        """Who asked for an account and waits."""
        return await registration.pending()

    @route(
        "POST",
        "/v1/admin/applications/{number}/approve",
        permission=MANAGE_USERS,
        errors=(NotFound, NameTaken, Outranked),
    )
    async def approve(caller: Caller, number: NumberField, body: Empty) -> Decided:
        """Make the account of an application; its owner can log in from now on."""
        return await registration.approve(caller, str(number))

    @route("POST", "/v1/admin/applications/{number}/reject", permission=MANAGE_USERS, errors=(NotFound, Outranked))
    async def reject(caller: Caller, number: NumberField, body: Empty) -> Decided:
        """Delete an application."""
        return await registration.reject(caller, str(number))

    return [invite, invitations, withdraw, pending, approve, reject]
