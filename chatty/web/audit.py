"""Route: the audit log, for auditors."""

from typing import Annotated

from msgspec import Meta

from chatty.services.audit import AuditSteps
from chatty.services.permissions import READ_AUDIT
from chatty.web.routes import Route, route
from chatty.wire import limits
from chatty.wire.audit import AuditPage
from chatty.wire.types import TextField

audit_page_max = 500
_calendar_ms_max = 253_402_300_799_999  # the year 9999 ends

CountField = Annotated[int, Meta(ge=1, le=audit_page_max)]
AuditIdField = Annotated[int, Meta(ge=0, le=limits.integer_max)]
WhenField = Annotated[int, Meta(ge=0, le=_calendar_ms_max)]


def routes(audit: AuditSteps) -> list[Route]:
    @route("GET", "/v1/admin/audit", permission=READ_AUDIT)
    async def listed(
        actor: TextField = "",
        action: TextField = "",
        object: TextField = "",  # noqa: A002 # the field's name
        family: TextField = "",
        address: TextField = "",
        request_id: TextField = "",
        since: WhenField = 0,
        until: WhenField = 0,
        before: AuditIdField = 0,
        limit: CountField = audit_page_max,
    ) -> AuditPage:
        """Acts, the newest first; of those that fit all that is asked for."""
        return await audit.listed(
            count_max=limit,
            before=before,
            since_ms=since,
            until_ms=until,
            actor=actor,
            action=action,
            object=object,
            family=family,
            address=address,
            request_id=request_id,
        )

    return [listed]
