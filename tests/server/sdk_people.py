"""The whole application with the SDK before it: real client, real Hypercorn, real PostgreSQL, real cryptography.

async with open_origin(database, tmp_path) as origin:
    open_one = opener(origin, tmp_path)
    async with open_one("ann") as ann: …                     # by the name of the store
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio

from chatty.app import Hooks
from chatty.cli import run_server
from chatty.client import Client, open_client
from chatty.config import Settings
from tests.client.conftest import Open
from tests.client.small_server import CHEAP_LIMITS


@asynccontextmanager
async def open_origin(database: str, folder: Path, *, hooks: Hooks | None = None, port: int = 0) -> AsyncIterator[str]:
    """Serve on a free port, or on that of before, until the block is left."""
    port = port or await free_port()
    origin = f"http://127.0.0.1:{port}"
    settings = Settings(
        data_dir=folder / "data",
        port=port,
        public_origin=origin,
        registration="open",
        compare_interval_s=0.2,
        revocation_poll_interval_s=0.2,
    )

    async def serve(*, task_status: trio.TaskStatus[str]) -> None:
        await run_server(settings, address=database, hooks=hooks, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield origin
        nursery.cancel_scope.cancel()


async def free_port() -> int:
    with trio.socket.socket() as probe:
        await probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def opener(origin: str, folder: Path) -> Open:
    def open_one(store: str) -> AbstractAsyncContextManager[Client]:
        return open_client(origin, folder / store, store_key=store[:1].encode() * 32, derivation_limits=CHEAP_LIMITS)

    return open_one
