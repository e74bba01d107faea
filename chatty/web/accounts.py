"""Routes: registration, salt, the own account."""

from chatty.errors import (
    ApprovalPending,
    BadKey,
    DeviceIdTaken,
    LoginRefused,
    NameReserved,
    NameTaken,
    RegistrationClosed,
)
from chatty.services.accounts import AccountSteps
from chatty.services.caller import Caller
from chatty.services.permissions import PUBLIC, SIGNED_IN
from chatty.web.routes import RequestInfo, Route, route
from chatty.wire.accounts import Account, Registration, Salt, SaltRequest, Tokens


def routes(accounts: AccountSteps) -> list[Route]:
    @route("POST", "/v1/salt", permission=PUBLIC)
    async def salt(body: SaltRequest) -> Salt:
        """Salt and nonce for a registration or log-in; the same for known and unknown names."""
        return accounts.salt(body)

    @route(
        "POST",
        "/v1/register",
        permission=PUBLIC,
        statuses=(201,),
        errors=(BadKey, LoginRefused, RegistrationClosed, ApprovalPending, NameReserved, NameTaken, DeviceIdTaken),
    )
    async def register(body: Registration, request: RequestInfo) -> Tokens:
        """Make an account and its first device, or apply for one."""
        return await accounts.register(body, address=request.address)

    @route("GET", "/v1/account", permission=SIGNED_IN)
    async def account(caller: Caller) -> Account:
        """The caller's own account, with its wrapped secrets."""
        return await accounts.account(caller)

    return [salt, register, account]
