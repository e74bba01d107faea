"""The limits of HTTP requests: by address for whoever comes, by account, device and route for who is signed in."""

from chatty.services.caller import Caller
from chatty.services.limits import Asker, Limits, asker_of, subject_of_address


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
