"""The operator's side of the console's socket: one line asks, one line answers. Plain and blocking; no event loop is needed."""

import socket
from pathlib import Path
from typing import Any

import msgspec

from chatty.actors.console import ConsoleAnswer, answer_bytes_max, short_address, socket_path
from chatty.errors import ServerUnreachable
from chatty.wire.console import Argument, ConsoleRequest

timeout_s = 15.0  # longer than the server takes for its slowest answer
_part_bytes = 65_536


class Refused(Exception):
    """The server answered with an error. code, exit_code: as the error's own."""

    def __init__(self, code: str, detail: str, *, exit_code: int = 1) -> None:
        super().__init__(detail)
        self.code = code
        self.exit_code = exit_code


def ask(
    data_dir: Path, command: str, *, children_max: int = 50, arguments: dict[str, Argument] | None = None
) -> dict[str, Any]:
    """Raises: ServerUnreachable when nobody listens or it is not answered in time; Refused."""
    wanted = ConsoleRequest(command=command, children_max=children_max, arguments=arguments or {})
    request = msgspec.json.encode(wanted)
    path = socket_path(data_dir)
    try:
        line = _exchange(path, request + b"\n")
        answer = msgspec.json.decode(line, type=ConsoleAnswer)
    except FileNotFoundError:
        raise ServerUnreachable(f"no server is running on {data_dir}: {path.name} is not there") from None
    except ConnectionRefusedError:
        raise ServerUnreachable(f"no server is running on {data_dir}: {path.name} was left behind") from None
    except TimeoutError:
        raise ServerUnreachable(f"the server on {data_dir} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise ServerUnreachable(f"{path}: {error.strerror or error}") from None
    except msgspec.DecodeError:
        raise ServerUnreachable(f"{path}: not a whole answer; is it another version's server?") from None
    if answer.answer is None:
        raise Refused(answer.code, answer.detail, exit_code=answer.exit_code)
    return answer.answer


def _exchange(path: Path, request: bytes) -> bytes:
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        with short_address(path) as address:
            connection.connect(address)
        connection.sendall(request)
        while b"\n" not in received and len(received) <= answer_bytes_max:
            part = connection.recv(_part_bytes)
            if not part:
                break
            received += part
    return bytes(received.partition(b"\n")[0])
