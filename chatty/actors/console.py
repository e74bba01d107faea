"""The operator's console, the server's side: a Unix socket in the data directory, for one machine's owner alone.

One line of JSON asks, one line of JSON answers, then the connection ends. It is never on the public port: who may open the socket
(0600, in the server's own directory) may see and do all that it offers. No content of anybody is there, and no secret but an
invitation that was asked for.

The answers of status, health and actors are plain reads in a task of their own: they come while an actor hangs, a mailbox is full
or the database is gone, which is when they are wanted. Sizes, connections and times are bounded. Beyond a bound the answer is an
error; an act that took too long may or may not have been done. Who asks nothing in time is let go.

`admin.lock` is held by the server that listens, for as long as its process lives. So a socket file that is there while the lock
is free was left by a dead server, and is replaced in one step by one that was made private before anybody could see it.
"""

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from chatty.actors.runtime import ActorSpec, Mailbox, Snapshot
from chatty.errors import BadRequest, ChattyError, DataDirectoryInUse, OutcomeUnknown, Overloaded, TooLarge
from chatty.wire.console import ConsoleRequest

Json = Mapping[str, Any]
ConsoleCommand = Callable[[Json], Awaitable[Json]]  # from the request's arguments to the answer; raises ChattyError

request_bytes_max = 4_096
answer_bytes_max = 4 * 1_048_576
children_count_max = 1_000
_connections_max = 8
_send_timeout_s = 4.0  # with the request's it is less than the asker waits
_path_bytes_max = 107  # of a Unix socket's address


class ConsoleAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either the answer or an error: its code, its text and the exit code of who asked."""

    answer: dict[str, Any] | None = None
    code: str = ""
    detail: str = ""
    exit_code: int = 0


@dataclass(frozen=True, kw_only=True)
class ConsoleTimes:
    """health_timeout_s: then it is answered that health did not answer, which is an answer. request_timeout_s: the whole."""

    request_timeout_s: float = 10.0
    health_timeout_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class ConsoleSources:
    """Where the answers come from. All return JSON values under stable keys, units in the key, and no secret.

    snapshot, status: plain reads that never wait. health: as GET /readyz answers, {"is_ready": bool, "checks": [{"name": str,
    "is_ready": bool, "reason": str}]}. commands: by their words, "limits why"; they check their arguments. What all these raise
    is a ChattyError, which is answered; all else is a bug.
    """

    snapshot: Callable[[], Snapshot]
    health: Callable[[], Awaitable[Json]]
    status: Callable[[], Json]
    commands: Mapping[str, ConsoleCommand] = field(default_factory=dict)


def socket_path(data_dir: Path) -> Path:
    return data_dir / "admin.sock"


def console_actor(path: Path, sources: ConsoleSources, *, times: ConsoleTimes | None = None) -> ActorSpec[None]:
    """serve_console() as an actor, so that a fault in an answer restarts the console alone. Start it as the last branch.

    Its StartFailed has DataDirectoryInUse as its `__cause__` when another server listens.
    """

    async def run(mailbox: Mailbox[None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_console, path, sources, times=times))
            mailbox.ready()
            async for _ in mailbox:
                pass  # nobody tells it anything: this waits for the drain
            nursery.cancel_scope.cancel()

    return ActorSpec[None](name="console", run=run, mailbox_count_max=1)


async def serve_console(
    path: Path,
    sources: ConsoleSources,
    *,
    times: ConsoleTimes | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until cancelled; then the socket's file is gone. For `nursery.start()`.

    Raises: DataDirectoryInUse when another server listens on this path; OSError when the directory cannot be written.
    """
    times = times or ConsoleTimes()
    with _only_server(path), _listening(path) as listener:
        places = trio.CapacityLimiter(_connections_max)
        task_status.started()
        serve_one = partial(_serve_one, sources=sources, times=times, places=places)
        await trio.serve_listeners(serve_one, [trio.SocketListener(listener)])


async def _serve_one(
    stream: trio.SocketStream, *, sources: ConsoleSources, times: ConsoleTimes, places: trio.CapacityLimiter
) -> None:
    async with stream:
        if places.available_tokens < 1:
            await _send(stream, _refusal(Overloaded(limiter="console", retry_after_s=times.request_timeout_s)))
            return
        async with places:
            answer: ConsoleAnswer | None = None
            with trio.move_on_after(times.request_timeout_s), suppress(trio.BrokenResourceError):
                line = await _receive_line(stream)
                answer = _late(times)
                answer = await _answer(line, sources, times)
            if answer is not None:
                await _send(stream, answer)


async def _send(stream: trio.SocketStream, answer: ConsoleAnswer) -> None:
    with trio.move_on_after(_send_timeout_s), suppress(trio.BrokenResourceError):  # the asker has gone
        await stream.send_all(_encode(answer) + b"\n")


def _late(times: ConsoleTimes) -> ConsoleAnswer:
    return _refusal(OutcomeUnknown(f"not done within {times.request_timeout_s:g} s; it may or may not be done yet"))


def _refusal(error: ChattyError) -> ConsoleAnswer:
    return ConsoleAnswer(code=error.code, detail=str(error), exit_code=error.exit_code)


async def _receive_line(stream: trio.SocketStream) -> bytes:
    """Up to the first newline, or as much as was sent."""
    received = bytearray()
    while b"\n" not in received and len(received) <= request_bytes_max:
        part = await stream.receive_some(request_bytes_max)
        if not part:
            break
        received += part
    return bytes(received.partition(b"\n")[0])


async def _answer(line: bytes, sources: ConsoleSources, times: ConsoleTimes) -> ConsoleAnswer:
    try:
        if len(line) > request_bytes_max:
            raise TooLarge(limit="request_bytes_max", bytes_max=request_bytes_max)
        return ConsoleAnswer(answer=dict(await answer_to(_decode(line), sources, times)))
    except ChattyError as error:
        return _refusal(error)


async def answer_to(request: ConsoleRequest, sources: ConsoleSources, times: ConsoleTimes | None = None) -> Json:
    """Raises: ChattyError."""
    times = times or ConsoleTimes()
    match request.command:
        case "status":
            return sources.status()
        case "actors":
            return shown(sources.snapshot(), children_max=max(1, min(request.children_max, children_count_max)))
        case "health":
            with trio.move_on_after(times.health_timeout_s):
                return await sources.health()
            reason = f"not answered within {times.health_timeout_s:g} s"
            return {"is_ready": False, "checks": [{"name": "health", "is_ready": False, "reason": reason}]}
        case name if (command := sources.commands.get(name)) is not None:
            return await command(request.arguments)
        case _:
            raise BadRequest("no such command of the console; is it another version's server?")


def _decode(line: bytes) -> ConsoleRequest:
    try:
        return msgspec.json.decode(line, type=ConsoleRequest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"no request of the console: {error}") from None


def _encode(answer: ConsoleAnswer) -> bytes:
    data = msgspec.json.encode(answer)
    if len(data) <= answer_bytes_max:
        return data
    return msgspec.json.encode(_refusal(TooLarge(limit="answer_bytes_max", bytes_max=answer_bytes_max)))


def shown(snapshot: Snapshot, *, children_max: int) -> dict[str, Any]:
    """A snapshot as JSON. Of more than children_max children of one branch, those with the most trouble are kept, in their
    order, and the others counted: ten thousand quiet rooms help nobody.
    """
    kept = _most_troubled(snapshot.children, children_max)
    return {
        "name": snapshot.name,
        "state": snapshot.state,
        "mailbox_count": snapshot.mailbox_count,
        "mailbox_count_max": snapshot.mailbox_count_max,
        "oldest_age_s": round(snapshot.oldest_age_s, 3),
        "handled_count": snapshot.handled_count,
        "restart_count": snapshot.restart_count,
        "quarantined_count": snapshot.quarantined_count,
        "last_error": snapshot.last_error,
        "children": [shown(child, children_max=children_max) for child in kept],
        "children_hidden_count": len(snapshot.children) - len(kept),
    }


def _most_troubled(children: Sequence[Snapshot], count_max: int) -> Sequence[Snapshot]:
    if len(children) <= count_max:
        return children
    places = sorted(range(len(children)), key=lambda place: _trouble(children[place]), reverse=True)
    return [children[place] for place in sorted(places[:count_max])]


def _trouble(one: Snapshot) -> tuple[int, int, float, int]:
    return one.quarantined_count, one.restart_count, one.oldest_age_s, one.mailbox_count


# The socket's file --------------------------------------------------------------------------------------------------


@contextmanager
def _only_server(path: Path) -> Iterator[None]:
    """Hold the lock beside the socket. The kernel lets go of it with the process, however that ends."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise DataDirectoryInUse(str(path.parent)) from None
            raise
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _listening(path: Path) -> Iterator[trio.socket.SocketType]:
    """A listening socket at the path, 0600 whatever the umask is. Raises: OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        _bind_private(listener, path)
        try:
            listener.listen(_connections_max)
            listener.setblocking(False)
            yield trio.socket.from_stdlib_socket(listener.dup())
        finally:
            path.unlink(missing_ok=True)


def _bind_private(listener: socket.socket, path: Path) -> None:
    """Made in a folder into which nobody else can reach, so that its mode is right before its name can be seen."""
    folder = path.parent / f".admin-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    making = folder / "s"
    try:
        with short_address(making) as address:
            listener.bind(address)
        making.chmod(0o600)
        making.replace(path)
    finally:
        making.unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """The path, or where it is too long for a socket's address (107 bytes) another way to the same file.

    Raises: OSError where the system has no such way.
    """
    if len(os.fsencode(path)) <= _path_bytes_max:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
