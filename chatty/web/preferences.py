"""Routes: what the caller lets others see."""

from chatty.services.caller import Caller
from chatty.services.permissions import SIGNED_IN
from chatty.services.preferences import PreferenceSteps
from chatty.web.routes import Route, route
from chatty.wire.accounts import Empty
from chatty.wire.preferences import Preferences


def routes(preferences: PreferenceSteps) -> list[Route]:
    @route("GET", "/v1/account/preferences", permission=SIGNED_IN)
    async def read(caller: Caller) -> Preferences:
        """What the caller lets others see."""
        return await preferences.read(caller)

    @route("PUT", "/v1/account/preferences", permission=SIGNED_IN)
    async def write(caller: Caller, body: Preferences) -> Empty:
        """Show or hide presence and receipts; it reaches open sockets at once."""
        await preferences.write(caller, body)
        return Empty()

    return [read, write]
