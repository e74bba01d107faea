"""A nursery for background tasks that lets the block's own error through as it is, not inside a group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """For context managers: `except StoreUnavailable` around them must work although they own a nursery.

    An exception group of one is unwrapped; of several (a background task failed as well) it stays a group.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        only = group.exceptions[0]
        raise only from only.__cause__
