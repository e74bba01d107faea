"""Routes: messages between devices, outside rooms. They are given and acknowledged on the WebSocket."""

from chatty.errors import MailboxQuotaExceeded
from chatty.services.caller import Caller
from chatty.services.mailbox import MailboxSteps
from chatty.services.permissions import CHAT
from chatty.web.routes import NumberedRequest, Route, route
from chatty.wire.keys import ToDevice, ToDeviceAnswer


def routes(mailbox: MailboxSteps) -> list[Route]:
    @route("POST", "/v1/to-device", permission=CHAT, errors=(MailboxQuotaExceeded,))
    async def send(caller: Caller, body: ToDevice, request: NumberedRequest) -> ToDeviceAnswer:
        """Put one message into the mailbox of each device named; devices that are gone are listed, not an error."""
        return await mailbox.send(caller, body, n=request.n, low=request.low)

    return [send]
