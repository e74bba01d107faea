"""A nursery whose tasks serve its block: they end with it, and what the block raises comes out as it is, not in a group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_serving_nursery() -> AsyncIterator[trio.Nursery]:
    """Raises: what the block raises; a group only when several failed. Cancelled: so are the tasks."""
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
