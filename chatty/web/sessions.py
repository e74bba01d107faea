"""Routes: log in, refresh, step up, log out."""

from chatty.errors import (
    ApprovalPending,
    DeviceIdTaken,
    InvalidDpopProof,
    LoginRefused,
    NotFound,
    RefreshRefused,
    SecondFactorRefused,
    SecondFactorRequired,
    TooManyDevices,
    UseDpopNonce,
)
from chatty.services.caller import Caller
from chatty.services.permissions import PUBLIC, SIGNED_IN
from chatty.services.sessions import SessionSteps
from chatty.services.tokens import TokenSteps
from chatty.web.routes import RequestInfo, Route, route
from chatty.wire.accounts import Empty, Login, Refresh, StepUp, Tokens


def routes(sessions: SessionSteps, tokens: TokenSteps) -> list[Route]:
    @route(
        "POST",
        "/v1/login",
        permission=PUBLIC,
        statuses=(201,),
        errors=(
            LoginRefused,
            SecondFactorRequired,
            SecondFactorRefused,
            ApprovalPending,
            DeviceIdTaken,
            TooManyDevices,
            NotFound,
        ),
    )
    async def log_in(body: Login, request: RequestInfo) -> Tokens:
        """Sign in on a new device."""
        return await sessions.log_in(body, address=request.address)

    @route("POST", "/v1/token", permission=PUBLIC, errors=(RefreshRefused, InvalidDpopProof, UseDpopNonce))
    async def refresh(body: Refresh, request: RequestInfo) -> Tokens:
        """Both tokens anew, for a refresh token and a DPoP proof of its key."""
        return await tokens.refresh(body, request.proven, address=request.address)

    @route(
        "POST",
        "/v1/step-up",
        permission=SIGNED_IN,
        errors=(LoginRefused, SecondFactorRequired, SecondFactorRefused),
    )
    async def step_up(caller: Caller, body: StepUp, request: RequestInfo) -> Empty:
        """Prove once more who is there, for what needs a fresh proof."""
        await sessions.step_up(caller, body, address=request.address)
        return Empty()

    @route("POST", "/v1/logout", permission=SIGNED_IN, errors=(NotFound,))
    async def log_out(caller: Caller, body: Empty) -> Empty:
        """End this log-in session and revoke this device."""
        await sessions.log_out(caller)
        return Empty()

    return [log_in, refresh, step_up, log_out]
