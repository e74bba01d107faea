"""Routes: delete the own account; its receipt."""

from chatty.errors import LastOwner, LoginRefused, NotFound
from chatty.services.caller import Caller
from chatty.services.deletions import DeletionSteps
from chatty.services.permissions import OWN_SECURITY, PUBLIC
from chatty.web.routes import RequestInfo, Route, route
from chatty.wire.deletions import AccountDeletion, Receipt, ReceiptTokenField


def routes(deletions: DeletionSteps) -> list[Route]:
    @route("DELETE", "/v1/account", permission=OWN_SECURITY, statuses=(202,), errors=(LoginRefused, LastOwner))
    async def delete(caller: Caller, body: AccountDeletion, request: RequestInfo) -> Receipt:
        """End the account now and for ever, and erase it; the receipt says how far that is."""
        return await deletions.delete(caller, body, address=request.address)

    @route("GET", "/v1/receipts/{token}", permission=PUBLIC, errors=(NotFound,))
    async def receipt(token: ReceiptTokenField) -> Receipt:
        """Of a deletion, for 30 days after its end; whoever has the token may read it."""
        return await deletions.receipt(token)

    return [delete, receipt]
