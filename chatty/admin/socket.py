"""The operator's side of the console's socket: one line asks, one line answers. Plain and blocking; no event loop is needed.

Nobody listens: nothing was asked, and it may be done without a server. Connected: from then on no answer is no answer, for the
server may have done it.
"""

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from chatty.actors.console import ConsoleAnswer, answer_bytes_max, short_address, socket_path
from chatty.errors import OutcomeUnknown, ServerUnreachable
from chatty.wire.console import Argument, ConsoleRequest

timeout_s = 15.0  # longer than the server takes for its slowest answer
_part_bytes = 65_536
_perhaps = "; it may or may not have been done"


class NoServerRunning(ServerUnreachable):
    """Nobody listens on the socket: nothing was asked."""


class Refused(Exception):
    """The server answered with an error. code, exit_code: as the error's own."""

    def __init__(self, code: str, detail: str, *, exit_code: int = 1) -> None:
        super().__init__(detail)
        self.code = code
        self.exit_code = exit_code


def ask(
    data_dir: Path, command: str, *, children_max: int = 50, arguments: dict[str, Argument] | None = None
) -> dict[str, Any]:
    """Raises: NoServerRunning; ServerUnreachable when the socket is another account's; OutcomeUnknown when it was asked and gave
    no whole answer; Refused.
    """
    wanted = ConsoleRequest(command=command, children_max=children_max, arguments=arguments or {})
    request = msgspec.json.encode(wanted)
    path = socket_path(data_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        _connect(connection, path)
        try:
            answer = msgspec.json.decode(_exchange(connection, request + b"\n"), type=ConsoleAnswer)
        except TimeoutError:
            raise OutcomeUnknown(f"no answer within {timeout_s:g} s{_perhaps}") from None
        except OSError as error:
            raise OutcomeUnknown(f"no answer: {error.strerror or error}{_perhaps}") from None
        except msgspec.DecodeError:
            raise OutcomeUnknown(
                f"no whole answer; was the server stopped, or is it another version's?{_perhaps}"
            ) from None
    if answer.answer is None:
        raise Refused(answer.code, answer.detail, exit_code=answer.exit_code)
    return answer.answer


def _connect(connection: socket.socket, path: Path) -> None:
    try:
        with short_address(path) as address:
            connection.connect(address)
    except FileNotFoundError:
        raise NoServerRunning(f"no server is running on {path.parent}: {path.name} is not there") from None
    except ConnectionRefusedError:
        raise NoServerRunning(f"no server is running on {path.parent}: {path.name} was left behind") from None
    except OSError as error:
        raise ServerUnreachable(f"{path}: {error.strerror or error}") from None


def _exchange(connection: socket.socket, request: bytes) -> bytes:
    received = bytearray()
    with suppress(BrokenPipeError):  # a server that is full answers before it has read
        connection.sendall(request)
    while b"\n" not in received and len(received) <= answer_bytes_max:
        part = connection.recv(_part_bytes)
        if not part:
            break
        received += part
    return bytes(received.partition(b"\n")[0])
