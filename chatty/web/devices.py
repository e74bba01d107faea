"""Routes: the caller's own devices."""

from chatty.errors import NotFound
from chatty.services.caller import Caller
from chatty.services.devices import DeviceSteps
from chatty.services.permissions import OWN_SECURITY, SIGNED_IN
from chatty.web.routes import Route, route
from chatty.wire.accounts import DeviceRename, Devices, Empty
from chatty.wire.rooms import SendState
from chatty.wire.types import DeviceIdField


def routes(devices: DeviceSteps) -> list[Route]:
    @route("GET", "/v1/devices", permission=SIGNED_IN)
    async def list_own(caller: Caller) -> Devices:
        """The caller's live devices."""
        return await devices.list_own(caller)

    @route("GET", "/v1/device", permission=SIGNED_IN)
    async def send_state(caller: Caller) -> SendState:
        """The calling device's numbers, as the server knows them."""
        return await devices.send_state(caller)

    @route("PUT", "/v1/devices/{device}/name", permission=SIGNED_IN, errors=(NotFound,))
    async def rename(caller: Caller, device: DeviceIdField, body: DeviceRename) -> Empty:
        """Name one of the caller's devices."""
        await devices.rename(caller, device, name=body.name)
        return Empty()

    @route("POST", "/v1/devices/revoke-others", permission=OWN_SECURITY)
    async def revoke_others(caller: Caller, body: Empty) -> Empty:
        """Revoke all of the caller's devices but the calling one."""
        await devices.revoke_others(caller)
        return Empty()

    @route("DELETE", "/v1/devices/{device}", permission=OWN_SECURITY, errors=(NotFound,))
    async def revoke(caller: Caller, device: DeviceIdField) -> Empty:
        """Revoke one of the caller's devices, for ever; its sockets close within a second."""
        await devices.revoke(caller, device)
        return Empty()

    return [list_own, send_state, rename, revoke_others, revoke]
