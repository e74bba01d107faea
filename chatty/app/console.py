"""What the console asks the running application."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

import chatty
from chatty.actors.console import ConsoleCommand, ConsoleSources, console_actor, socket_path
from chatty.actors.directory import Directory
from chatty.actors.runtime import (
    StartFailed,
    Supervisor,
)
from chatty.config import Settings
from chatty.errors import ChattyError
from chatty.services.limits import Limits
from chatty.services.signing_keys import SigningKeySteps
from chatty.web import health


async def start_console(
    settings: Settings,
    root: Supervisor,
    checks: health.Health,
    directory: Directory,
    commands: Mapping[str, ConsoleCommand],
) -> None:
    async def console_health() -> dict[str, Any]:
        readiness: dict[str, Any] = msgspec.to_builtins(await health.look(checks))
        return readiness

    def status() -> dict[str, Any]:
        return {
            "version": chatty.__version__,
            "server_name": settings.server_name,
            "origin": settings.public_origin,
            "sessions_count": len(directory),
        }

    data_dir = settings.data_dir
    sources = ConsoleSources(snapshot=root.snapshot, health=console_health, status=status, commands=commands)
    try:
        await root.start(console_actor(socket_path(data_dir), sources))
    except StartFailed as failure:
        if isinstance(failure.__cause__, ChattyError):  # another server runs on this directory
            raise failure.__cause__ from None
        raise


def limit_commands(limits: Limits) -> dict[str, ConsoleCommand]:
    """What `chatty-admin limits` asks."""

    async def why(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return limits.why(str(arguments["subject"]))

    async def shown(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return limits.shown()

    return {"limits why": why, "limits list": shown}


def key_commands(turns: SigningKeySteps) -> dict[str, ConsoleCommand]:
    """What `chatty-admin keys` asks."""

    async def listed(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"keys": [asdict(state) for state in await turns.listed()]}

    async def rotate(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return asdict(await turns.rotate())

    return {"keys list": listed, "keys rotate": rotate}
