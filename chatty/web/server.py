"""Routes: what a client must know of the server before it speaks."""

from collections.abc import Callable

from chatty.services.permissions import PUBLIC
from chatty.web.routes import Route, route
from chatty.wire.accounts import Jwks, ServerInfo


def routes(info: ServerInfo, jwks: Callable[[], Jwks]) -> list[Route]:
    """jwks: as they are now; signing keys take turns."""

    @route("GET", "/v1/server", permission=PUBLIC)
    async def server() -> ServerInfo:
        """Name, origin, generation, who may register, and how keys are derived from passwords."""
        return info

    @route("GET", "/v1/jwks", permission=PUBLIC)
    async def keys() -> Jwks:
        """The public keys of the server's tokens and checkpoints."""
        return jwks()

    return [server, keys]
