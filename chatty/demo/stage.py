"""The server that the demo plays on: one of its own, that leaves nothing behind, or a running one.

Its own is the real thing: `chatty up` as a process, with embedded PostgreSQL in a temporary directory, on a free port, with
registration open and everything logged. The stage is entered first and left last; leaving it stops the server in order (SIGTERM)
and removes the directory, also where PostgreSQL's account could not enter it and the data went elsewhere.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import trio

from chatty.demo.devices import DemoFailed
from chatty.demo.storage import Storage
from chatty.errors import ServerUnreachable
from chatty.store.embedded.places import fallback_root_default, prepare_places
from chatty.wire.accounts import ServerInfo

start_timeout_s = 90.0
stop_timeout_s = 40.0
poll_interval_s = 0.05
server_name = "demo"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """scratch: a temporary directory for the devices' stores. storage, process: None unless the server is our own."""

    origin: str
    info: ServerInfo
    scratch: Path
    storage: Storage | None = None
    process: trio.Process | None = None

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """The server answers nothing inside the block, if it is our own."""
        if self.process is None:
            yield
            return
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def metrics(self) -> bytes | None:
        """What it tells operators; None: nothing."""
        async with httpx.AsyncClient(base_url=self.origin) as http:
            try:
                answer = await http.get("/metrics")
            except httpx.HTTPError:
                return None
        return answer.content if answer.status_code == 200 else None


@asynccontextmanager
async def open_running(origin: str) -> AsyncIterator[Stage]:
    """Raises: ServerUnreachable."""
    with temporary_directory() as directory:
        yield Stage(origin=origin, info=await read_info(origin), scratch=directory)


@asynccontextmanager
async def open_own() -> AsyncIterator[Stage]:
    """Raises: DemoFailed when it does not start."""
    with temporary_directory() as directory:
        data, scratch, log = directory / "data", directory / "devices", directory / "server.log"
        for made in (data, scratch):
            made.mkdir(mode=directory.stat().st_mode & 0o777)
        origin = f"http://127.0.0.1:{free_port()}"
        async with running_server(origin, data=data, log=log) as process:
            await wait_ready(origin, process, log)
            places = prepare_places(data / "postgres", fallback_root=fallback_root_default)
            yield Stage(
                origin=origin,
                info=await read_info(origin),
                scratch=scratch,
                storage=Storage(places, data_directory=data, log=log, scratch=scratch),
                process=process,
            )


@contextmanager
def temporary_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="chatty-demo-"))
    if os.geteuid() == 0:
        directory.chmod(0o711)  # PostgreSQL, under another account, passes through
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def running_server(origin: str, *, data: Path, log: Path) -> AsyncIterator[trio.Process]:
    settings = {
        "CHATTY_DATA_DIR": str(data),
        "CHATTY_PORT": origin.rsplit(":", 1)[1],
        "CHATTY_PUBLIC_ORIGIN": origin,
        "CHATTY_SERVER_NAME": server_name,
        "CHATTY_LOG_LEVEL": "debug",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATTY_")}
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", "from chatty.cli import main; main()", "up"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,  # no chatty.toml is there
            env=kept | settings,
            start_new_session=True,  # a terminal's Ctrl-C reaches the demo alone, which stops it in order
        )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await stop(process)
            remove_moved_data(data)


async def stop(process: trio.Process) -> None:
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(stop_timeout_s):
            await process.wait()
            return
        process.kill()
        await process.wait()


def remove_moved_data(data: Path) -> None:
    """What PostgreSQL keeps outside the data directory when its account cannot enter it, or its socket's path is too long."""
    places = prepare_places(data / "postgres", fallback_root=fallback_root_default)
    for directory in (places.root, places.sockets):
        if not directory.is_relative_to(data):
            shutil.rmtree(directory, ignore_errors=True)


async def wait_ready(origin: str, process: trio.Process, log: Path) -> None:
    with trio.move_on_after(start_timeout_s):
        async with httpx.AsyncClient(base_url=origin) as http:
            while process.poll() is None:
                try:
                    if (await http.get("/readyz")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await trio.sleep(poll_interval_s)
    raise DemoFailed(f"the server did not start: {last_line(log)}")


def last_line(log: Path) -> str:
    written = log.read_text(errors="replace").splitlines()
    return written[-1] if written else "it wrote no log"


async def read_info(origin: str) -> ServerInfo:
    async with httpx.AsyncClient(base_url=origin) as http:
        try:
            answer = await http.get("/v1/server")
            return msgspec.json.decode(answer.content, type=ServerInfo)
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError) as error:
            raise ServerUnreachable(f"{origin} does not answer as a Chatty server does: {error}") from None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
