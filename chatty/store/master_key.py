"""The master key's file, and the one beside it that is to replace it. Both are the owner's alone; none is ever written over.

One beside it that holds the same key is not another key: it goes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from chatty.crypto.sealing import (
    MasterKey,
    drop_used_master_key,
    load_next_master_key,
    read_master_key,
    replace_master_key,
)
from chatty.errors import BadConfiguration
from chatty.services.master_key import MasterKeyFiles

T = TypeVar("T")


class DiskMasterKeyFiles(MasterKeyFiles):
    """path: what the server reads."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def current(self) -> MasterKey:
        return await self._in_thread(read_master_key)

    async def following(self) -> MasterKey:
        return await self._in_thread(load_next_master_key)

    async def drop_used(self) -> None:
        await self._in_thread(drop_used_master_key)

    async def replace(self) -> str:
        return str(await self._in_thread(replace_master_key))

    async def _in_thread(self, do: Callable[[Path], T]) -> T:
        try:
            return await trio.to_thread.run_sync(do, self._path)
        except OSError as error:
            raise BadConfiguration(f"{self._path}: the master key's file: {error.strerror}") from None
