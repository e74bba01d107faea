"""The limits of HTTP requests: by address for whoever comes, by account, device and route for who is signed in.

And the route that tells why they refused somebody.
"""

from chatty.errors import NotFound
from chatty.services.caller import Caller
from chatty.services.limits import Asker, Limits, asker_of, subject_of_address
from chatty.services.permissions import READ_USERS
from chatty.services.users import UserSteps
from chatty.web.routes import Route, route
from chatty.wire.types import UserIdField
from chatty.wire.users import Refusals


def routes(users: UserSteps, limits: Limits) -> list[Route]:
    @route("GET", "/v1/admin/users/{user}/refusals", permission=READ_USERS, errors=(NotFound,))
    async def why(user: UserIdField) -> Refusals:
        """What limiters refused this user, as far as the process that is asked remembers."""
        await users.require(user)
        return limits.why(user)

    return [why]


class RequestLimits:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def arrive(self, address: str, what: str) -> None:
        """Before anything of the request is believed. Raises: RateLimited."""
        self._limits.take("requests_address", subject_of_address(address), Asker(what=what, address=address))

    def admit(self, caller: Caller, what: str, *, address: str) -> None:
        """Raises: RateLimited."""
        asker = asker_of(caller, what, address=address)
        self._limits.take("requests_account", caller.user, asker)
        self._limits.take("requests_device", caller.device, asker)
        self._limits.take("requests_route", f"{caller.device} {what}", asker)
