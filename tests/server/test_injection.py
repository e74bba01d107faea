"""Whatever is put into any field, parameter or header is refused with a documented code, or is data and comes back as it was.

No answer is a fault of the server's, no header and no line of the log holds what was put in, and nothing that was refused leaves
a trace in a table. Every place is found in the routes' and frames' own types. Every value is held against every body's type; over
the network go, for each place, some of those that the type takes and some of those that it refuses, others in each run.
"""

import io
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import quote

import msgspec
import pytest
import trio
from msgspec import Struct
from trio_websocket import ConnectionClosed

from chatty.errors import BadRequest, ChattyError, TooLarge
from chatty.telemetry import configure_logging
from chatty.web.reading import decode_body
from chatty.web.routes import Route
from chatty.wire import frames
from chatty.wire.frames import ClientFrame, Encoding, ServerFrame
from tests.server.app_fixtures import RunningApp, open_chat, without_limits
from tests.server.injections import BROKEN_JSON, INJECTED, PLACEHOLDER, TEXTS, inject, json_values, msgpack_values
from tests.server.places import KEY, Place, at, places, put
from tests.server.raw_http import Headers, RawAnswer, RawHttp, open_raw_http
from tests.server.scenes import Scene, make_scene, sample, struct_info
from tests.server.test_bad_input import stored
from tests.server.whole_requests import WholeRequest, whole_request
from tests.server.wire_client import WireSocket, open_live_socket
from tests.test_docs import leaf_errors

Counts = Callable[[int, int], int]
T = TypeVar("T", str, bytes)
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("logging_as_before")]

_NOT_ROUTED = {"not_found", "method_not_allowed"}
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_NOT_HTTP = re.compile(rb"[\x00\n\r\x0b\x0c\x1c-\x1f\x85]")
# What a success does not keep: it says only who tries to log in.
_KEPT_NOWHERE = {"known_refresh_token"}


class Pack:
    """All that is asked in one test: by ann, an owner. before: what the tables held after the last success."""

    def __init__(self, chat: RunningApp, http: RawHttp, bobs: WireSocket, scene: Scene, draw: random.Random) -> None:
        self.chat = chat
        self.scene = scene
        self._http = http
        self._bobs = bobs
        self._draw = draw

    def some(self, found: Iterable[T], count: int) -> list[T]:
        found = sorted(found)
        return self._draw.sample(found, min(count, len(found)))

    async def whole(self, route: Route) -> WholeRequest:
        return await whole_request(route, self.scene)

    async def ask(
        self, whole: WholeRequest, *, target: str = "", headers: Mapping[str, bytes] | None = None, body: bytes = b""
    ) -> RawAnswer:
        """The whole request but for what is given; once more where the server wants another nonce."""
        prover, target = self.scene.ann.person.prover, target or quote(whole.path)
        needs_token = whole.route.permission.needs_caller
        while True:
            token = self.scene.ann.access_token if needs_token else ""
            proof = prover.proof(whole.route.method, target, access_token=token)
            all_headers = {name: value.encode() for name, value in whole.headers.items()}
            all_headers |= {"Authorization": b"DPoP " + token.encode()} if token else {}
            all_headers |= {"DPoP": proof.encode(), **(headers or {})}
            content = body or (msgspec.json.encode(whole.body) if whole.body is not None else b"")
            answer = await self._http.ask(whole.route.method.encode(), target.encode(), list_of(all_headers), content)
            heard, prover.nonce = prover.nonce, answer.headers.get("dpop-nonce", prover.nonce)
            if answer.code != "use_dpop_nonce" or heard == prover.nonce:
                return answer

    async def seen(self, answer: RawAnswer) -> set[str]:
        """Every text that ann can read now, or whoever the answer signed in; and what bob's socket was given."""
        tokens = json.loads(answer.body)
        texts: set[str] = set()
        for route in self.chat.app.routes:
            if route.method == "GET" and route.permission.needs_caller and "{" not in route.path:
                token = tokens.get("access_token") or self.scene.ann.access_token
                found = await self.scene.ann.person.prover.ask(self.chat.http, "GET", route.path, access_token=token)
                texts.update(texts_in(found.json()))
        texts.update(texts_in(msgspec.to_builtins(await self._bobs.settle())))
        return texts


@asynccontextmanager
async def open_pack(database: str, folder: Path, seed: int) -> AsyncIterator[Pack]:
    """Behind a proxy that is trusted, with no limit in the way; at the end the log and the tables must be as they should."""
    log = io.StringIO()
    configure_logging("info", log)
    off = without_limits() | {"quota_devices": "100000", "trusted_proxies": "127.0.0.1"}
    off |= {"heartbeat_interval_s": 600.0}  # the client of these tests fails when a ping meets its close
    async with open_chat(database, folder, **off) as chat:
        scene = await make_scene(chat, "owner")
        async with open_raw_http(chat.origin) as http, open_live_socket(scene.bob) as bobs:
            yield Pack(chat, http, bobs, scene, random.Random(seed))
    check_log(log.getvalue())


def check_log(written: str) -> None:
    """Each line is one object, and none of its texts holds what was put in, escaped or not."""
    lines = [json.loads(line) for line in written.splitlines()]
    assert len(lines) > 20
    said = "\n".join(text for line in lines for text in texts_in(line))
    assert [name for name, text in TEXTS.items() if len(text) > 5 and (text in said or text in written)] == []
    assert INJECTED not in written


def check(answer: RawAnswer, codes: set[str], *, is_data: bool = False) -> bool:
    """Was it taken, as data may be? Else it must be refused with one of the codes. No header may hold what was put in."""
    assert INJECTED.lower().encode() not in answer.head.lower()
    assert all(text.encode() not in answer.head for text in TEXTS.values() if len(text) > 5)
    if is_data and answer.status < 300:
        return True
    assert 400 <= answer.status < 500, answer
    assert answer.code in codes, answer
    return False


def codes_of(route: Route) -> set[str]:
    return {kind.code for kind in route.errors if kind.http_status < 500}


def list_of(headers: Mapping[str, bytes]) -> Headers:
    return [(name.encode(), value) for name, value in headers.items()]


def texts_in(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield from (key, *texts_in(item))
        case list():
            for item in value:
                yield from texts_in(item)


# Bodies -------------------------------------------------------------------------------------------------------------


def takes(route: Route, place: Place, name: str, body: bytes) -> bool:
    """Does the route's type take this? A text must then be what it was."""
    assert route.body is not None
    try:
        decoded = decode_body(body, route.body)
    except BadRequest:
        return False
    if TEXTS.get(name):
        assert at(msgspec.to_builtins(decoded), place.path) == TEXTS[name], (route.operation, str(place))
    return True


def bodies(route: Route, whole: WholeRequest, place: Place, known: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The whole body with each of the values in that place, by the value's name."""
    assert route.body is not None
    marked = msgspec.json.encode(put(struct_info(route.body), whole.body, place.path, PLACEHOLDER, known))
    for name, value in json_values().items():
        if place.path[-1] is not KEY or value.startswith(b'"'):
            yield name, inject(marked, msgspec.json.encode(PLACEHOLDER), value)


async def stored_at_rest(chat: RunningApp) -> Counter[str]:
    """Once every new device has its place in its rooms: a job appends those that are owed, within seconds."""
    with trio.fail_after(30):
        while (found := await stored(chat))["owed_devices"]:  # noqa: ASYNC110  # only the store can be asked
            await trio.sleep(0.1)
    return found


async def test_every_field_of_every_body(database: str, tmp_path: Path, counts: Counts, seed: int) -> None:
    taken_count = 0
    async with open_pack(database, tmp_path, seed) as pack:
        for route in pack.chat.app.routes:
            if route.body is None:
                continue
            whole, before = await pack.whole(route), await stored_at_rest(pack.chat)
            for place in places(struct_info(route.body), whole.body, pack.scene.known):
                found = dict(bodies(route, whole, place, pack.scene.known))
                taken = {name for name, body in found.items() if takes(route, place, name, body)}
                assert taken.isdisjoint(BROKEN_JSON), (route.operation, str(place))
                for name in pack.some(found.keys() - taken, counts(1, len(found))):
                    check(await pack.ask(whole, body=found[name]), {"bad_request"})
                tried = [await is_taken_as_it_is(pack, route, place, name) for name in pack.some(taken, counts(2, 99))]
                if any(tried):
                    taken_count, before = taken_count + 1, await stored_at_rest(pack.chat)
            assert await stored(pack.chat) == before, route.operation
    assert taken_count >= 4


async def is_taken_as_it_is(pack: Pack, route: Route, place: Place, name: str) -> bool:
    """Whether a value that the type takes is taken by the route; a text is then read again by whoever may."""
    whole = await pack.whole(route)
    body = dict(bodies(route, whole, place, pack.scene.known))[name]
    answer = await pack.ask(whole, body=body)
    is_taken = check(answer, codes_of(route), is_data=True)
    if is_taken and TEXTS.get(name) and place.path[-1] not in _KEPT_NOWHERE:
        assert TEXTS[name] in await pack.seen(answer), (route.operation, str(place), name)
    return is_taken


# Parameters ---------------------------------------------------------------------------------------------------------


ESCAPED = ("%00", "%ff%fe", "%c0%af", "%e0%80%af", "%ed%a0%80", "%f4%90%80%80", "%2e%2e%2f", "%", "%zz", "%u0000")
NUMBERS = (
    "-1",
    "0x1F",
    "007",
    "1e400",
    "0.5",
    "NaN",
    "9" * 5_000,
    "9007199254740992",
    "18446744073709551616",
    "\u0663",
)


async def test_every_parameter(database: str, tmp_path: Path, counts: Counts, seed: int) -> None:
    values = {*(quote(text, safe="") for text in [*TEXTS.values(), *NUMBERS] if len(text) <= 5_000), *ESCAPED}
    async with open_pack(database, tmp_path, seed) as pack:
        wholes = [await pack.whole(route) for route in pack.chat.app.routes]
        before = await stored(pack.chat)
        for whole in wholes:
            route = whole.route
            codes = {*codes_of(route), *_NOT_ROUTED}
            for parameter in route.parameters:
                for value in pack.some(values, counts(8, len(values))):
                    answer = await pack.ask(whole, target=target_of(whole, parameter.name, value))
                    check(answer, codes, is_data=parameter.place == "query" and route.method == "GET")
            for value in pack.some(values - {""}, counts(1, 10)):
                check(await pack.ask(whole, target=f"{quote(whole.path)}?{value}=1"), {"bad_request"})
        assert await stored(pack.chat) == before


def target_of(whole: WholeRequest, name: str, value: str) -> str:
    """value: as it goes over the network."""
    if name not in whole.path_parameters:
        return f"{quote(whole.path)}?{name}={value}"
    return whole.route.path.format(
        **{**{key: quote(str(one)) for key, one in whole.path_parameters.items()}, name: value}
    )


# Headers ------------------------------------------------------------------------------------------------------------

# What reads a header, and how it refuses; "": it does not.
READ_BY: Mapping[str, tuple[Callable[[Route], bool], set[str]]] = {
    "Authorization": (lambda route: route.permission.needs_caller, {"unauthenticated"}),
    "DPoP": (lambda route: route.permission.needs_caller, {"invalid_dpop_proof"}),
    "Idempotency-Key": (lambda route: route.is_numbered, {"bad_request"}),
    "Chatty-Low": (lambda route: route.is_numbered, {"bad_request"}),
    "Content-Type": (lambda route: route.body is not None, {"unsupported_media_type"}),
    "X-Request-Id": (lambda route: route.method == "GET", set()),
    "X-Forwarded-For": (lambda route: route.method == "GET", set()),
}


async def test_every_header(database: str, tmp_path: Path, counts: Counts, seed: int) -> None:
    whole_lines = [f"x\r\n{INJECTED}: 1", *(text for text in TEXTS.values() if "\r\n\r\n" not in text)]
    values = {text: text.encode() for text in [*whole_lines, *NUMBERS]}
    values |= {repr(value): value for value in (b"\xff\xfe", b"a\x00b", b"\xc0\xaf", b"\xed\xa0\x80", b"x\x85")}
    async with open_pack(database, tmp_path, seed) as pack:
        wholes = [await pack.whole(route) for route in pack.chat.app.routes]
        before = await stored(pack.chat)
        for whole in wholes:
            route = whole.route
            for name, (is_read, codes) in READ_BY.items():
                for value in pack.some(values, counts(2, len(values))) if is_read(route) else ():
                    answer = await pack.ask(whole, headers={name: values[value]})
                    if answer.status in (400, 431) and not answer.code:
                        assert is_no_http(values[value]), (route.operation, name, value)
                        continue
                    is_taken = check(answer, codes, is_data=not codes)
                    assert is_taken is not bool(codes), (route.operation, name, value)
                    is_kept = name == "X-Request-Id" and bool(REQUEST_ID.fullmatch(value))
                    assert (answer.headers["x-request-id"] == value) is is_kept
        assert await stored(pack.chat) == before


def is_no_http(value: bytes) -> bool:
    """Such a request has no answer of the application's: its framing is broken, or it is too large to be read."""
    return bool(_NOT_HTTP.search(value)) or len(value) > 60_000


# Frames -------------------------------------------------------------------------------------------------------------


ANSWERS = (frames.Welcome, frames.Ack, frames.Done, frames.Error, frames.Checkpoint)
CODES = {kind.code for kind in leaf_errors(ChattyError) if kind.http_status < 500}


class Line:
    """Ann's socket, opened anew when what she wrote ended it."""

    def __init__(self, pack: Pack, encoding: Encoding, opened: AsyncExitStack) -> None:
        self._pack = pack
        self._encoding: Encoding = encoding
        self._opened = opened
        self._socket: WireSocket | None = None

    async def ask(self, frame: bytes) -> list[ServerFrame]:
        """What answers it before a ping is answered or the connection ends."""
        if self._socket is None:
            opening = open_live_socket(self._pack.scene.ann, encoding=self._encoding)
            self._socket = await self._opened.enter_async_context(opening)
        socket, events = self._socket, list[ServerFrame]()
        try:
            await socket.write_raw(frame)
            events = await socket.settle()
        except ConnectionClosed:
            events = list(socket.pending)
            self._socket = None
        return [event for event in events if isinstance(event, ANSWERS)]


def sample_frame(kind: type[Struct], known: Mapping[str, Any], encoding: Encoding) -> Any:
    frame = msgspec.convert(sample(struct_info(kind), known), kind)
    return msgspec.to_builtins(frame, builtin_types=(bytes,) if encoding == "msgpack" else ())


def injected_frames(kind: type[Struct], known: Mapping[str, Any], encoding: Encoding) -> Iterator[tuple[Place, bytes]]:
    """A frame of this kind with each of the values in each place."""
    encode = msgspec.json.encode if encoding == "json" else msgspec.msgpack.encode
    values = json_values() if encoding == "json" else msgpack_values()
    frame = sample_frame(kind, known, encoding)
    for place in places(struct_info(kind), frame, known):
        marked = encode(put(struct_info(kind), frame, place.path, PLACEHOLDER, known))
        for value in values.values():
            yield place, inject(marked, encode(PLACEHOLDER), value)


def is_request(frame: bytes, encoding: Encoding) -> bool:
    try:
        frames.decode_requests(frame, encoding=encoding)
    except (BadRequest, TooLarge):
        return False
    return True


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_every_field_of_every_frame(
    database: str, tmp_path: Path, encoding: Encoding, counts: Counts, seed: int
) -> None:
    async with open_pack(database, tmp_path, seed) as pack, AsyncExitStack() as opened:
        line, before = Line(pack, encoding, opened), await stored(pack.chat)
        for kind in get_args(ClientFrame):
            by_place: dict[tuple[str, bool], list[bytes]] = defaultdict(list)
            for place, frame in injected_frames(kind, pack.scene.known, encoding):
                if encoding == "msgpack" or is_utf8(frame):
                    by_place[str(place), is_request(frame, encoding)].append(frame)
            for (_, is_taken), found in by_place.items():
                for frame in pack.some(found, counts(1 if is_taken else 5, len(found))):
                    answers = await line.ask(frame)
                    codes = {answer.code for answer in answers if isinstance(answer, frames.Error)}
                    assert answers, frame[:200]
                    assert codes <= (CODES if is_taken else {"bad_request"}), frame[:200]
                    if not codes:
                        assert is_taken, frame[:200]
                        before = await stored(pack.chat)
        assert await stored(pack.chat) == before


def is_utf8(frame: bytes) -> bool:
    """Text that is none ends the connection before the application sees it: test_bad_input.py."""
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True
