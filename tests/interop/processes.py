"""What a run starts: `chatty up` in a temporary directory, and the program under Node. Both end with the block, whatever happens.

Each has a session of its own: a terminal's Ctrl-C reaches this process alone, which then stops them in order.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.interop.transcript import Failed

start_timeout_s = 60.0
stop_timeout_s = 20.0
answer_timeout_s = 45.0
CLIENT = Path(__file__).parent / "client" / "program.js"


@asynccontextmanager
async def running_server() -> AsyncIterator[tuple[str, Path]]:
    """Yields its origin and a folder for the clients' stores, removed with everything else."""
    with tempfile.TemporaryDirectory(prefix="chatty-interop-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        for passed in (folder, folder / "data"):
            passed.chmod(0o711)  # as root, the embedded database's account must get through
        origin = f"http://127.0.0.1:{_free_port()}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CHATTY_")}
        environment |= {
            "CHATTY_DATA_DIR": str(folder / "data"),
            "CHATTY_PORT": origin.rsplit(":", 1)[1],
            "CHATTY_PUBLIC_ORIGIN": origin,
        }
        command = [str(Path(sys.executable).with_name("chatty")), "up"]
        with (folder / "log").open("wb") as log:
            child = await trio.lowlevel.open_process(
                command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
            try:
                await _wait_ready(origin, child, folder / "log")
                yield origin, folder
            finally:
                await _stop(child)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def _wait_ready(origin: str, child: trio.Process, log: Path) -> None:
    with trio.move_on_after(start_timeout_s):
        async with httpx.AsyncClient() as http:
            while child.poll() is None:
                try:
                    if (await http.get(f"{origin}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await trio.sleep(0.1)
    raise Failed("the server did not start:\n" + await trio.Path(log).read_text())


async def _stop(child: trio.Process) -> None:
    """Politely first; whatever is still there then is killed."""
    with trio.CancelScope(shield=True):
        child.terminate()
        with trio.move_on_after(stop_timeout_s):
            await child.wait()
        if child.poll() is None:
            child.kill()
            await child.wait()


class NodeProgram:
    """People in the Node process: `await node.ask("nora", "send", room, "Hello")` calls that method there."""

    def __init__(self, child: trio.Process) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._stdin, self._stdout = child.stdin, child.stdout
        self._writing = trio.Lock()
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._last_id = 0

    async def ask(self, person: str, do: str, *arguments: Any) -> Any:
        """Raises: Failed with the error's text, or when nothing answers."""
        self._last_id += 1
        command = {"id": self._last_id, "person": person, "do": do, "with": arguments}
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._answers[self._last_id] = send
        async with self._writing:
            await self._stdin.send_all(json.dumps(command).encode() + b"\n")
        with trio.move_on_after(answer_timeout_s):
            answer = await receive.receive()
            if "error" in answer:
                raise Failed(f"Node: {person} {do}: {answer['error']}")
            return answer["value"]
        raise Failed(f"Node: {person} {do}: no answer within {answer_timeout_s:.0f} s")

    async def read_answers(self) -> None:
        """Runs beside everything else. Raises: Failed when the program ends."""
        rest = b""
        async for data in self._stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                self._answers.pop(answer["id"]).send_nowait(answer)
        raise Failed("the Node program ended")


@asynccontextmanager
async def running_node(origin: str, log: Path) -> AsyncIterator[NodeProgram]:
    command = [os.environ.get("NODE", "node"), str(CLIENT), origin]
    with log.open("wb") as errors:
        child = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            program = NodeProgram(child)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(program.read_answers)
                yield program
                nursery.cancel_scope.cancel()
        finally:
            await _stop(child)
