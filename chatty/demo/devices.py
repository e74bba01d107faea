"""The parent's hold on its devices: each a process with a sealed store that outlives it.

*off* → *on* → *off* (closed in order) or *killed* (kill -9) → *on*: the same store opens again. An order to a device that does
not answer in time, or whose process has ended, raises DemoFailed with the last line that it wrote to its log.
*Cancelled*: open_devices() ends all processes, whatever they do.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec
import trio

from chatty.demo import orders
from chatty.errors import ChattyError
from chatty.ids import DeviceId, EventId, UserId

T = TypeVar("T")
answer_timeout_s = 60.0
close_timeout_s = 10.0


class DemoFailed(ChattyError):
    """Something went otherwise than in the story."""

    code: ClassVar[str] = "demo_failed"


class Refused(ChattyError):
    """The server refused what a device asked for. code, exit_code: as the server's error has them."""

    def __init__(self, failed: orders.Failed) -> None:
        super().__init__(failed.detail)
        self.code = failed.code  # type: ignore[misc]  # this one's face is another's
        self.exit_code = failed.exit_code  # type: ignore[misc]


class Device:
    """owner: a first name. kind: laptop, phone … lines: the messages that it read, each once, in the order of reading."""

    def __init__(self, owner: str, kind: str, *, directory: Path, origin: str) -> None:
        self.owner, self.kind = owner, kind
        self.store = directory / f"{owner}-{kind}.sealed".lower()
        self.user, self.device = UserId(""), DeviceId("")
        self.lines: list[orders.Line] = []
        self.store_key = secrets.token_bytes(32)
        self._origin = origin
        self._log = directory / f"{owner}-{kind}.log".lower()
        self._process: trio.Process | None = None
        self._answers: orders.Lines | None = None

    @property
    def name(self) -> str:
        return f"{self.owner}'s {self.kind}"

    async def start(self) -> None:
        """Open its store in a new process. Raises: DemoFailed."""
        with self._log.open("ab") as log:
            # A session of its own: a terminal's Ctrl-C reaches the parent alone, which then ends what it started.
            self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "chatty.demo.device"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._log.parent,
                env={name: value for name, value in os.environ.items() if not name.startswith("CHATTY_")},
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._answers = orders.Lines(self._process.stdout)
        await self._tell(orders.Open(origin=self._origin, store=str(self.store), store_key=self.store_key))

    async def ask(self, order: orders.Order, answer: type[T]) -> T:
        """Raises: Refused; DemoFailed. Cancelled: the answer will come first to the next order; nobody asks again then."""
        assert self._answers is not None
        try:
            with trio.fail_after(answer_timeout_s):
                await self._tell(order)
                line = await self._answers.read()
        except (trio.TooSlowError, trio.BrokenResourceError):
            line = b""
        if not line:
            raise DemoFailed(f"{self.name} did not do its {type(order).__name__.lower()}: {self._last_log_line()}")
        said = msgspec.json.decode(line, type=orders.Answer)
        if said.failed is not None:
            raise Refused(said.failed)
        return msgspec.json.decode(said.done, type=answer)

    async def listen(self, until: Sequence[str]) -> list[orders.Line]:
        """Read until each of these texts was heard, now or before. Returns: what is new."""
        known_texts = {line.text for line in self.lines}
        heard = await self.ask(orders.Listen(until=[one for one in until if one not in known_texts]), orders.Heard)
        known: set[EventId] = {line.event for line in self.lines}
        # The SDK tells at least once: the line that was in hand when the process was killed comes again.
        new = [line for line in heard.lines if line.event not in known]
        self.lines += new
        return new

    async def kill(self) -> None:
        """kill -9: nothing of the process runs any more when this returns."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        await self._leave()

    async def close(self) -> None:
        """In order: its stdin ends."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.move_on_after(close_timeout_s):
            await self._process.wait()
        await self.kill()

    async def _leave(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None and process.stdout is not None:
            await process.stdin.aclose()
            await process.stdout.aclose()

    async def _tell(self, order: orders.Order) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        await self._process.stdin.send_all(msgspec.json.encode(order) + b"\n")

    def _last_log_line(self) -> str:
        written = self._log.read_text(errors="replace").splitlines()
        return written[-1] if written else "it said nothing"

    async def end(self) -> None:
        """Whatever it does. Shielded: a cancelled demo leaves no process behind; a killed one goes at once."""
        if self._process is not None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + close_timeout_s):
                await self.kill()


@asynccontextmanager
async def open_devices(
    owners: Sequence[tuple[str, str]], *, directory: Path, origin: str
) -> AsyncIterator[list[Device]]:
    """owners: first name and kind of each device. At the end of the block no process of theirs runs."""
    devices = [Device(owner, kind, directory=directory, origin=origin) for owner, kind in owners]
    try:
        async with trio.open_nursery() as nursery:
            for device in devices:
                nursery.start_soon(device.start)
        yield devices
    finally:
        for device in devices:
            await device.end()
