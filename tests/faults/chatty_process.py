"""A server as a child process that is killed and started anew on the same data, and the PostgreSQL that it runs."""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import trio

from chatty.wire.canonical import encode_base64
from tests.faults.postgres_processes import kill_all, postgres_pids, postmaster_pid
from tests.faults.server_program import Order, Promise, Strike
from tests.server.commands import as_url

ROOT = Path(__file__).resolve().parents[2]
ready_timeout_s = 60.0
poll_interval_s = 0.02  # other processes: there is nothing to wait on


def free_port() -> int:
    """One that nobody uses now; a server that is started again keeps it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child_environment() -> dict[str, str]:
    """Ours; with bytecode files, or each start would compile everything anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(kw_only=True)
class ChattyProcess:
    """One installation: data directory, port, log. At most one server of it runs at a time."""

    command: Sequence[str]
    data_dir: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    process: trio.Process | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.data_dir / "server.log"

    @property
    def running(self) -> trio.Process:
        assert self.process is not None, "not started"
        return self.process

    async def start(self) -> None:
        """Until it is ready."""
        self.process = await self._open()
        with trio.fail_after(ready_timeout_s):
            async with httpx.AsyncClient(base_url=self.origin, verify=False) as http:
                while not await self._is_ready(http):  # noqa: ASYNC110
                    await trio.sleep(poll_interval_s)

    async def _open(self) -> trio.Process:
        """In a session of its own, so that a signal to its group is a signal to nobody else."""
        with self.log.open("ab") as log:
            return await trio.lowlevel.open_process(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=child_environment() | self.environment,
                start_new_session=True,
            )

    async def _is_ready(self, http: httpx.AsyncClient) -> bool:
        assert self.running.poll() is None, f"the server has ended: {self.log.read_text()[-2000:]}"
        try:
            return (await http.get("/readyz")).is_success
        except httpx.TransportError:
            return False

    async def tell(self, strike: Strike) -> None:
        """Somebody dies there."""
        assert self.running.stdin is not None
        await self.running.stdin.send_all(msgspec.json.encode(strike) + b"\n")

    async def ended(self) -> int:
        """Its exit code; after SIGKILL -9."""
        code = await self.running.wait()
        if self.running.stdin is not None:
            await self.running.stdin.aclose()
        return code

    async def kill(self) -> None:
        self.running.kill()
        await self.ended()

    async def until_other_postmaster(self, pid: int | None) -> None:
        """Until the embedded PostgreSQL that had this pid was replaced."""
        with trio.fail_after(ready_timeout_s):
            while postmaster_pid(self.data_dir) in (pid, None):  # noqa: ASYNC110
                await trio.sleep(poll_interval_s)


@asynccontextmanager
async def open_installation(
    data_dir: Path,
    *,
    spoiled: Promise | None = None,
    lease_lifetime_s: float | None = None,
    key_prepare_s: float | None = None,
) -> AsyncIterator[ChattyProcess]:
    """The server program of these tests, started, with its embedded PostgreSQL."""
    order = Order(
        data_dir=str(data_dir),
        port=free_port(),
        spoiled=spoiled,
        lease_lifetime_s=lease_lifetime_s,
        key_prepare_s=key_prepare_s,
    )
    async with _opened(_of_order(order)) as installation:
        yield installation


@asynccontextmanager
async def open_nodes(
    database: str,
    directory: Path,
    *,
    count: int,
    public_origin: str,
    is_bus_silent: bool = True,
    room_idle_timeout_s: float | None = None,
) -> AsyncIterator[list[ChattyProcess]]:
    """So many server programs on one database, started at once. The bus is off: then the database is all that they share."""
    nodes = []
    for number in range(count):
        data_dir = directory / f"node-{number}"
        data_dir.mkdir(mode=0o700)
        order = Order(
            data_dir=str(data_dir),
            port=free_port(),
            database=database,
            public_origin=public_origin,
            master_key=encode_base64(b"m" * 32),
            is_bus_silent=is_bus_silent,
            room_idle_timeout_s=room_idle_timeout_s,
        )
        nodes.append(_of_order(order))
    async with AsyncExitStack() as stack:
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(stack.enter_async_context, _opened(node))
        yield nodes


def _of_order(order: Order) -> ChattyProcess:
    command = [sys.executable, "-m", "tests.faults.server_program", msgspec.json.encode(order).decode()]
    return ChattyProcess(command=command, data_dir=Path(order.data_dir), port=order.port)


@asynccontextmanager
async def open_chatty_up(data_dir: Path, **environment: str) -> AsyncIterator[ChattyProcess]:
    """The product's own command, started."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("chatty")), "up"]
    usual = {
        "CHATTY_DATA_DIR": str(data_dir),
        "CHATTY_PORT": str(port),
        "CHATTY_PUBLIC_ORIGIN": f"http://127.0.0.1:{port}",
    }
    installation = ChattyProcess(command=command, data_dir=data_dir, port=port, environment=usual | environment)
    async with _opened(installation):
        yield installation


@asynccontextmanager
async def open_serve(database: str, data_dir: Path, **environment: str) -> AsyncIterator[ChattyProcess]:
    """`chatty serve` on a database that is there, started."""
    port = free_port()
    usual = {
        "CHATTY_DATA_DIR": str(data_dir),
        "CHATTY_DATABASE_URL": as_url(database),
        "CHATTY_PORT": str(port),
        "CHATTY_PUBLIC_ORIGIN": f"http://127.0.0.1:{port}",
        "CHATTY_REGISTRATION": "open",
    }
    command = [str(Path(sys.executable).with_name("chatty")), "serve"]
    server = ChattyProcess(command=command, data_dir=data_dir, port=port, environment=usual | environment)
    async with _opened(server):
        yield server


@asynccontextmanager
async def _opened(installation: ChattyProcess) -> AsyncIterator[ChattyProcess]:
    try:
        await installation.start()
        yield installation
    except BaseException:
        print(installation.log.read_text()[-20_000:])
        raise
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            if installation.process is not None:
                await installation.kill()
        kill_all(postgres_pids(installation.data_dir))
