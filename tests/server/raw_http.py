"""HTTP/1.1 by hand, for requests that no client library would send: every byte is the caller's own."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

answer_timeout_s = 10.0
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, kw_only=True)
class RawAnswer:
    """headers: names in small letters; of two of one name, the last."""

    status: int
    head: bytes
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of a problem document; empty for any other answer."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        return str(json.loads(self.body)["code"])


class RawHttp:
    """One connection that is kept, and made anew when the server has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._stream: trio.SocketStream | None = None
        self._read = b""

    async def ask(self, method: bytes, target: bytes, headers: Headers = (), body: bytes = b"") -> RawAnswer:
        """One request with these bytes, and a Content-Length where it has a body; Host comes first."""
        lines = [method + b" " + target + b" HTTP/1.1", b"Host: chatty.test"]
        lines += [name + b": " + value for name, value in headers]
        if body:
            lines.append(b"Content-Length: %d" % len(body))
        request = b"\r\n".join([*lines, b"", body])
        with trio.fail_after(answer_timeout_s):
            if self._stream is None:
                self._stream = await trio.open_tcp_stream(self._host, self._port)
            await self._stream.send_all(request)
            answer = await self._answer()
        is_split = any(
            b"\r\n\r\n" in value for _, value in headers
        )  # what follows is another request, with its own answer
        if is_split or answer.headers.get("connection") == "close":
            await self.close()
        return answer

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        self._stream, self._read = None, b""

    async def _answer(self) -> RawAnswer:
        head = await self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self._exactly(int(headers.get("content-length", "0")))
        return RawAnswer(status=int(first.split(" ")[1]), head=head, headers=headers, body=body)

    async def _until(self, end: bytes) -> bytes:
        while end not in self._read:
            await self._more()
        found, _, self._read = self._read.partition(end)
        return found

    async def _exactly(self, count: int) -> bytes:
        while len(self._read) < count:
            await self._more()
        found, self._read = self._read[:count], self._read[count:]
        return found

    async def _more(self) -> None:
        assert self._stream is not None
        data = await self._stream.receive_some(65_536)
        assert data, f"the server closed without an answer; it had said {self._read!r}"
        self._read += data


@asynccontextmanager
async def open_raw_http(origin: str) -> AsyncIterator[RawHttp]:
    """origin: http://host:port."""
    host, _, port = origin.removeprefix("http://").partition(":")
    http = RawHttp(host, int(port))
    try:
        yield http
    finally:
        await http.close()
