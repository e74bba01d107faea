"""The SDK writes an export to a file: whole, private, or not at all."""

import json
import stat
from pathlib import Path

import httpx
import pytest

from chatty.client.errors import RemoteError, Unreachable
from chatty.client.exports import write_export
from chatty.client.http import Api
from chatty.client.store import LocalStore
from chatty.errors import LoginRefused, StepUpRequired
from chatty.ids import DeviceId, UserId
from chatty.wire.accounts import Tokens
from tests.client.lost_answers import OLD, Device, open_device
from tests.server.conftest import ORIGIN, RunningServer, open_server

TOKENS = Tokens(
    user=UserId("@anna:example.org"), device=DeviceId("DEVICE01"), access_token="a", refresh_token="r", expires_in_s=600
)
_AGE = "UPDATE refresh_families SET stepped_up_at = now() - interval '1 hour'"


def names(folder: Path) -> list[str]:
    return [one.name for one in folder.glob("own*")]


async def age(server: RunningServer) -> None:
    async with server.pool.transaction() as connection:
        await connection.execute(_AGE)


async def export(device: Device, path: Path, password: str = "") -> int:
    return await device.password.proven(lambda: write_export(device.api, path), password)


async def test_the_file_is_whole_and_for_its_owner_alone(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        path = tmp_path / "own.jsonl"
        count = await export(device, path)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert (len(lines), lines[0]["user"], lines[-1]["type"]) == (count, "@anna:example.org", "end")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert names(tmp_path) == ["own.jsonl"]


async def test_who_asks_is_proven_anew_with_the_password(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        await age(server)
        path = tmp_path / "own.jsonl"
        with pytest.raises(StepUpRequired):
            await export(device, path)
        with pytest.raises(LoginRefused):
            await export(device, path, "another password")
        assert await export(device, path, OLD) > 3


class Says(httpx.AsyncBaseTransport):
    """Answers everything with this."""

    def __init__(self, *pieces: bytes, breaks: bool = False) -> None:
        self._pieces, self._breaks = pieces, breaks

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=_Pieces(self._pieces, breaks=self._breaks))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: tuple[bytes, ...], *, breaks: bool) -> None:
        self._pieces, self._breaks, self._at = pieces, breaks, 0

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        if self._at == len(self._pieces):
            if self._breaks:
                raise httpx.RemoteProtocolError("cut off")
            raise StopAsyncIteration
        self._at += 1
        return self._pieces[self._at - 1]


@pytest.mark.parametrize(
    ("transport", "error"),
    [
        (Says(b'{"type":"export"}\n', breaks=True), Unreachable),
        (Says(b'{"type":"export"}\n{"type":"acc'), RemoteError),
        (Says(b'{"type":"export"}\n'), RemoteError),
        (Says(b'{"type":"export"}\n{"type":"end","lines_count":3}\n'), RemoteError),
        (Says(b'{"type":"export"}\n{"type":"end","lines_count":2}\nx'), RemoteError),
        (Says(), RemoteError),
        (Says(b'{"type":"exp', b'ort"}\n{"type":"end",', b'"lines_count":2}\n'), None),
    ],
)
async def test_what_is_cut_off_is_no_export(
    tmp_path: Path, transport: httpx.AsyncBaseTransport, error: type[Exception] | None
) -> None:
    store = LocalStore(tmp_path / "store", key=b"k" * 32)
    api = Api(ORIGIN, store, transport=transport, jitter=lambda _: 0.0)
    path = tmp_path / "own.jsonl"
    path.write_text("of last year")
    api.tokens.save(TOKENS)
    if error is None:
        assert await write_export(api, path) == 2
    else:
        with pytest.raises(error):
            await write_export(api, path)
        assert path.read_text() == "of last year"
    assert names(tmp_path) == ["own.jsonl"]
    await api.aclose()
    store.close()
