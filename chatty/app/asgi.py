"""For a plain ASGI server: the application lives as long as its lifespan."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from chatty.app.running import App, open_app
from chatty.config import load_settings
from chatty.errors import BadConfiguration, ChattyError
from chatty.telemetry import configure_logging
from chatty.web import listener


def leaf_of(group: BaseExceptionGroup[ChattyError]) -> ChattyError:
    """The first error in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ChattyError)
    return error


def make_asgi() -> Callable[..., Any]:
    """For a plain ASGI server on Trio: settings from the environment, a database URL, everything within the lifespan."""
    listener.mend_hypercorn()
    return LifespanApp()


class LifespanApp:
    """Opens the application at lifespan.startup and drains it at lifespan.shutdown; what stops it from opening is told."""

    def __init__(self) -> None:
        self._app: App | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert self._app is not None, "served before lifespan.startup"
        await self._app.asgi(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            refusal: ChattyError | None = None
            try:
                self._app = await stack.enter_async_context(_open_from_environment())
            except* ChattyError as group:
                refusal = leaf_of(group)
            if refusal is not None:
                await send({"type": "lifespan.startup.failed", "message": f"{refusal.code}: {refusal}"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if self._app is not None:
                self._app.begin_drain()
        await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def _open_from_environment() -> AsyncIterator[App]:
    """Raises: BadConfiguration; as open_app()."""
    try:
        settings = load_settings()
    except ValueError as error:
        raise BadConfiguration(str(error)) from None
    if settings.database_url is None:
        raise BadConfiguration("CHATTY_DATABASE_URL is not set: the embedded database comes with 'chatty up' only")
    configure_logging(settings.log_level, form=settings.log_format)
    async with open_app(settings, address=settings.database_url.get_secret_value()) as app:
        yield app
