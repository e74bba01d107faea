"""The codecs of the WebSocket: whatever is encoded decodes to the same in both encodings, and nothing else is let in."""

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatty.errors import BadRequest, HelloExpected, TooLarge
from chatty.ids import MailboxId, RoomId, SendNumber, Seq, UserSeq
from chatty.wire import frames, limits
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.frames import (
    ClientFrame,
    Encoding,
    ServerFrame,
    decode_events,
    decode_hello,
    decode_requests,
    encode,
    join_events,
)

CORPUS = Path(__file__).parent.parent / "corpus"
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

ids = st.integers(1, 2**32 - 1)
numbers = st.integers(1, limits.integer_max).map(SendNumber)
seqs = st.integers(0, limits.integer_max).map(Seq)
user_seqs = st.integers(0, limits.integer_max).map(UserSeq)
rooms = st.text("ABCabc019_-", min_size=43, max_size=43).map(lambda text: RoomId("!" + text))
tokens = st.text("abcXYZ019._~+/=-", min_size=1, max_size=100)
cursors = st.lists(st.builds(frames.Cursor, room=rooms, seq=seqs), max_size=20)
sends = st.builds(
    frames.Send,
    id=ids,
    n=numbers,
    low=numbers,
    room=rooms,
    epoch=seqs,
    algorithm=st.just("m.megolm.v1.aes-sha2"),
    session_id=st.text("ABCabc019+/", min_size=43, max_size=43),
    body=st.binary(max_size=300),
    silent=st.booleans(),
    expiry=st.integers(0, limits.integer_max),
)
requests: st.SearchStrategy[ClientFrame] = st.one_of(
    st.builds(
        frames.Hello,
        id=ids,
        access_token=tokens,
        dpop_proof=tokens,
        low=numbers,
        user_seq=user_seqs,
        cursors=cursors,
        more=st.booleans(),
    ),
    st.builds(frames.Cursors, id=ids, cursors=cursors, more=st.booleans()),
    st.builds(frames.Resync, id=ids, user_seq=user_seqs, cursors=cursors, more=st.booleans()),
    st.builds(frames.Token, id=ids, access_token=tokens, dpop_proof=tokens),
    sends,
    st.builds(frames.MailboxAck, id=ids, ids=st.lists(st.integers(1, limits.integer_max).map(MailboxId), max_size=20)),
    st.builds(frames.CheckpointRequest, id=ids, room=rooms),
    st.builds(frames.Ping, id=ids),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
events: st.SearchStrategy[ServerFrame] = st.one_of(
    st.builds(frames.Done, id=ids),
    st.builds(frames.Ack, id=ids, n=numbers, room=rooms, seq=seqs, time=seqs, leaf=st.binary(max_size=32)),
    st.builds(
        frames.Error,
        id=ids | st.just(0),
        code=texts,
        message=texts,
        is_retryable=st.booleans(),
        details=st.dictionaries(texts, st.integers(0, 9) | texts, max_size=3),
    ),
    st.builds(frames.Gap, room=rooms, from_seq=seqs, to_seq=seqs, head=st.binary(max_size=32)),
    st.builds(
        TimelineEvent,
        room=rooms,
        seq=seqs,
        time=seqs,
        kind=st.sampled_from(Kind),
        body=st.none() | st.binary(max_size=100),
        signature=st.binary(max_size=64),
    ),
)


def corpus(encoding: Encoding) -> list[Path]:
    return sorted((CORPUS / encoding).iterdir())


def as_received(data: bytes, encoding: Encoding) -> bytes | str:
    return data.decode() if encoding == "json" else data


def each_encoded(values: list[Any], encoding: Encoding) -> list[bytes]:
    return [encode(value, encoding=encoding) for value in values]


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(st.lists(requests, min_size=1, max_size=5))
def test_requests_arrive_as_they_were_sent(encoding: Encoding, sent: list[ClientFrame]) -> None:
    received = decode_requests(as_received(encode(sent, encoding=encoding), encoding), encoding=encoding)
    assert received == sent
    assert [type(one) for one in received] == [type(one) for one in sent]


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(requests)
def test_a_request_may_stand_alone_in_its_frame(encoding: Encoding, sent: ClientFrame) -> None:
    assert decode_requests(encode(sent, encoding=encoding), encoding=encoding) == [sent]


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(st.lists(events, min_size=1, max_size=20))
def test_events_encoded_one_by_one_are_one_frame_together(encoding: Encoding, sent: list[ServerFrame]) -> None:
    assert decode_events(join_events(each_encoded(sent, encoding), encoding=encoding), encoding=encoding) == sent


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("count", [1, 15, 16, 65_535, 65_536])
def test_a_frame_may_hold_any_number_of_events(encoding: Encoding, count: int) -> None:
    joined = join_events([encode(frames.Done(id=1), encoding=encoding)] * count, encoding=encoding)
    assert len(decode_events(joined, encoding=encoding)) == count


@pytest.mark.parametrize(
    "path", [path for encoding in ENCODINGS for path in corpus(encoding)], ids=lambda path: path.stem
)
def test_what_is_no_request_is_refused(path: Path) -> None:
    encoding: Encoding = "json" if path.parent.name == "json" else "msgpack"
    with pytest.raises(BadRequest):
        decode_requests(as_received(path.read_bytes(), encoding), encoding=encoding)


@given(st.binary(max_size=200) | st.sampled_from(corpus("msgpack")).map(Path.read_bytes), st.data())
def test_bytes_from_anybody_are_requests_or_refused(data: bytes, drawn: st.DataObject) -> None:
    _decode_or_refuse(_mutated(data[:2_000], drawn), encoding="msgpack")


@given(sends, st.data())
def test_a_damaged_request_is_a_request_or_refused(sent: frames.Send, drawn: st.DataObject) -> None:
    for encoding in ENCODINGS:
        damaged = _mutated(encode(sent, encoding=encoding), drawn)
        _decode_or_refuse(damaged if encoding == "msgpack" else damaged.decode(errors="replace"), encoding=encoding)


@given(st.text(max_size=200))
def test_text_from_anybody_is_requests_or_refused(text: str) -> None:
    _decode_or_refuse(text, encoding="json")


def _mutated(data: bytes, drawn: st.DataObject) -> bytes:
    changed = bytearray(data)
    for _ in range(drawn.draw(st.integers(0, 3)) if changed else 0):
        changed[drawn.draw(st.integers(0, len(changed) - 1))] = drawn.draw(st.integers(0, 255))
    return bytes(changed[: drawn.draw(st.integers(0, len(changed)))])


def _decode_or_refuse(data: bytes | str, *, encoding: Encoding) -> None:
    with suppress(BadRequest):
        for request in decode_requests(data, encoding=encoding):
            assert isinstance(request, get_args(ClientFrame))
    with suppress(BadRequest, HelloExpected):
        assert isinstance(decode_hello(data, encoding=encoding), frames.Hello)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_frame_is_as_large_as_the_limit_and_no_larger(encoding: Encoding) -> None:
    data = encode(frames.Ping(id=1), encoding=encoding)
    assert decode_requests(data, encoding=encoding, bytes_max=len(data)) == [frames.Ping(id=1)]
    with pytest.raises(TooLarge) as refused:
        decode_requests(data, encoding=encoding, bytes_max=len(data) - 1)
    assert refused.value.fields() == {"limit": "frame_bytes_max", "bytes_max": len(data) - 1}


HELLO = frames.Hello(id=1, access_token="token", dpop_proof="proof", low=SendNumber(1), user_seq=UserSeq(0))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_first_frame_is_a_hello_alone(encoding: Encoding) -> None:
    def first(value: Any) -> frames.Hello:
        return decode_hello(as_received(encode(value, encoding=encoding), encoding), encoding=encoding)

    assert first(HELLO) == first([HELLO]) == HELLO
    ping = frames.Ping(id=1)
    for other in (ping, [HELLO, ping], [ping, HELLO], [HELLO, HELLO], [], 7, "hello", {}, {"type": 7}):
        with pytest.raises(HelloExpected):
            first(other)
    for wrong in ({"type": "hello"}, msgspec.to_builtins(HELLO) | {"id": 0}, msgspec.to_builtins(HELLO) | {"x": 1}):
        with pytest.raises(BadRequest):
            first(wrong)
    with pytest.raises(BadRequest):
        decode_hello(as_received(encode(HELLO, encoding=encoding)[:-1], encoding), encoding=encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_first_frame_is_as_large_as_its_limit_and_no_larger(encoding: Encoding) -> None:
    data = encode(HELLO, encoding=encoding)
    assert decode_hello(data, encoding=encoding, bytes_max=len(data)) == HELLO
    with pytest.raises(TooLarge) as refused:
        decode_hello(data, encoding=encoding, bytes_max=len(data) - 1)
    assert refused.value.fields() == {"limit": "hello_bytes_max", "bytes_max": len(data) - 1}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_largest_hello_is_not_too_large(encoding: Encoding) -> None:
    rooms_named = [RoomId(f"!{at:043}") for at in range(limits.cursors_per_frame_max)]
    hello = frames.Hello(
        id=4_294_967_295,
        access_token="t" * 4096,
        dpop_proof="p" * 4096,
        low=SendNumber(limits.integer_max),
        user_seq=UserSeq(limits.integer_max),
        cursors=[frames.Cursor(room=room, seq=Seq(limits.integer_max)) for room in rooms_named],
        more=True,
    )
    assert decode_hello(encode(hello, encoding=encoding), encoding=encoding) == hello


def test_a_text_frame_is_measured_in_bytes() -> None:
    with pytest.raises(TooLarge):
        decode_requests("é" * 10, encoding="json", bytes_max=19)
    with pytest.raises(BadRequest):
        decode_requests("é" * 10, encoding="json", bytes_max=20)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("count", "is_right"), [(0, False), (1, True), (256, True), (257, False)])
def test_a_frame_holds_one_to_256_requests(encoding: Encoding, count: int, is_right: bool) -> None:
    data = encode([frames.Ping(id=1)] * count, encoding=encoding)
    if is_right:
        assert len(decode_requests(data, encoding=encoding)) == count
    else:
        with pytest.raises(BadRequest):
            decode_requests(data, encoding=encoding)


def test_bytes_are_base64_in_json_and_binary_in_messagepack() -> None:
    event = frames.Gap(room=RoomId("!" + "A" * 43), from_seq=Seq(1), to_seq=Seq(2), head=b"\xff\xfe\xfd")
    assert msgspec.json.decode(encode(event, encoding="json"))["head"] == "//79"
    assert msgspec.msgpack.decode(encode(event, encoding="msgpack"))["head"] == b"\xff\xfe\xfd"
