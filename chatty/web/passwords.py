"""Route: change the own password."""

from chatty.errors import BadKey, BadSignature, LoginRefused
from chatty.services.caller import Caller
from chatty.services.passwords import PasswordSteps
from chatty.services.permissions import OWN_SECURITY
from chatty.web.routes import RequestInfo, Route, route
from chatty.wire.accounts import Empty, PasswordChange


def routes(passwords: PasswordSteps) -> list[Route]:
    @route("POST", "/v1/account/password", permission=OWN_SECURITY, errors=(BadKey, BadSignature, LoginRefused))
    async def change_password(caller: Caller, body: PasswordChange, request: RequestInfo) -> Empty:
        """Another log-in key, its derivation and the re-wrapped recovery secret, all at once."""
        await passwords.change(caller, body, address=request.address)
        return Empty()

    return [change_password]
