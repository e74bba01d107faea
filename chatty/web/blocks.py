"""Routes: whom the caller has blocked."""

from chatty.errors import NotFound, QuotaExceeded
from chatty.services.blocks import BlockSteps
from chatty.services.caller import Caller
from chatty.services.permissions import SIGNED_IN
from chatty.web.routes import Route, route
from chatty.wire.accounts import Empty
from chatty.wire.blocks import Blocks
from chatty.wire.types import UserIdField


def routes(blocks: BlockSteps) -> list[Route]:
    @route("GET", "/v1/blocks", permission=SIGNED_IN)
    async def blocked(caller: Caller) -> Blocks:
        """Whom the caller has blocked."""
        return Blocks(users=list(await blocks.blocked(caller)))

    @route("PUT", "/v1/blocks/{user}", permission=SIGNED_IN, errors=(NotFound, QuotaExceeded))
    async def block(caller: Caller, user: UserIdField) -> Empty:
        """Keep out what this user sends from outside shared rooms; the user is not told."""
        await blocks.block(caller, user)
        return Empty()

    @route("DELETE", "/v1/blocks/{user}", permission=SIGNED_IN, errors=(NotFound,))
    async def unblock(caller: Caller, user: UserIdField) -> Empty:
        """Take a block back."""
        await blocks.unblock(caller, user)
        return Empty()

    return [blocked, block, unblock]
