"""Frames as bytes: what is plain is taken whole and in order, wherever it is cut; all else is given away byte for byte."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from chatty.wire.websocket import Splitter, server_frame, unmasked
from tests.fuzz.client_frames import frame

BYTES_MAX = 70_000
_NONE, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
NOT_PLAIN = {
    "a fragment": frame(_BINARY, b"part", is_final=False),
    "a continuation": frame(_NONE, b"of nothing"),
    "the first reserved bit": frame(_BINARY | 0x40, b"x"),
    "the second reserved bit": frame(_BINARY | 0x20, b"x"),
    "the third reserved bit": frame(_TEXT | 0x10, b"x"),
    "a reserved bit on a ping": frame(_PING | 0x40, b"x"),
    "a reserved opcode": frame(3, b"x"),
    "a reserved control opcode": frame(11, b"x"),
    "not masked": server_frame(b"x", is_text=False),
    "too large": frame(_BINARY, bytes(BYTES_MAX + 1)),
    "a close": frame(_CLOSE, b"\x03\xe8"),
    "a fragment of a ping": frame(_PING, b"x", is_final=False),
    "a ping that is too large": frame(_PING, bytes(126)),
    "two bytes for a size of one": b"\x82\xfe\x00\x7d" + bytes(4 + 125),
    "eight bytes for a size of two": b"\x82\xff" + (65_535).to_bytes(8, "big") + bytes(4 + 65_535),
    "text that is no UTF-8": frame(_TEXT, b"\xff"),
}


def split_all(pieces: list[bytes], *, count_max: int = 1_000) -> tuple[list[bytes | str], bytes, Splitter]:
    splitter = Splitter()
    messages: list[bytes | str] = []
    others = b""
    for piece in pieces:
        data = piece
        while True:
            split = splitter.split(data, bytes_max=BYTES_MAX, count_max=count_max)
            assert len(split.messages) <= count_max
            messages += split.messages
            others += split.others
            if not splitter.has_more:
                break
            data = b""
    return messages, others, splitter


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("is_text", [True, False])
def test_a_servers_frame_is_what_another_implementation_reads(size: int, is_text: bool) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(server_frame(b"a" * size, is_text=is_text))
    [event] = client.events()
    assert isinstance(event, TextMessage if is_text else BytesMessage)
    assert event.message_finished
    assert event.data == ("a" * size if is_text else b"a" * size)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_a_mask_is_taken_off_byte_by_byte(payload: bytes, key: bytes) -> None:
    assert unmasked(payload, key) == bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, BYTES_MAX])
def test_a_plain_frame_is_a_message_of_its_kind(size: int) -> None:
    stream = frame(_BINARY, b"b" * size) + frame(_TEXT, "é".encode() * (size // 2))
    messages, others, splitter = split_all([stream])
    assert (messages, others, splitter.is_over) == ([b"b" * size, "é" * (size // 2)], b"", False)


def test_frames_may_be_cut_anywhere() -> None:
    stream = frame(_BINARY, b"one") + frame(_PING, b"?") + frame(_TEXT, b"two" * 50) + frame(_BINARY, b"3" * 300)
    whole = split_all([stream])[:2]
    assert whole == ([b"one", "two" * 50, b"3" * 300], frame(_PING, b"?"))
    for place in range(len(stream) + 1):
        assert split_all([stream[:place], stream[place:]])[:2] == whole
    assert split_all([bytes([byte]) for byte in stream])[:2] == whole


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_ends_it_and_is_given_away_with_all_that_follows(name: str) -> None:
    before, wrong, behind = frame(_BINARY, b"before"), NOT_PLAIN[name], frame(_BINARY, b"behind")
    for cut in {0, 1, 2, 3, 5, len(wrong) // 2, len(wrong)}:
        pieces = [before + wrong[:cut], wrong[cut:] + behind, b"and more"]
        messages, others, splitter = split_all(pieces)
        assert (messages, others, splitter.is_over) == ([b"before"], wrong + behind + b"and more", True)


def test_a_frame_that_will_be_too_large_is_given_away_at_its_head() -> None:
    head = frame(_BINARY, bytes(BYTES_MAX + 1))[:14]
    assert split_all([head])[1] == head


@pytest.mark.parametrize("count_max", [1, 2, 3, 7])
def test_no_more_messages_than_asked_for_come_at_once_and_none_is_lost(count_max: int) -> None:
    stream = b"".join(frame(_BINARY, bytes([at])) for at in range(7)) + frame(_BINARY, b"unfinished")[:-1]
    messages, others, splitter = split_all([stream], count_max=count_max)
    assert (messages, others) == ([bytes([at]) for at in range(7)], b"")
    assert splitter.give_up() == frame(_BINARY, b"unfinished")[:-1]
    assert split_all([b"more"])[0] == []


@given(st.lists(st.binary(max_size=60) | st.text(max_size=30)), st.randoms(use_true_random=False), st.integers(1, 5))
def test_whatever_is_sent_comes_out_however_it_is_cut(
    sent: list[bytes | str], rng: random.Random, count_max: int
) -> None:
    frames = [frame(_TEXT, one.encode()) if isinstance(one, str) else frame(_BINARY, one) for one in sent]
    stream = b"".join(frames)
    places = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.randrange(6)))
    pieces = [stream[begin:end] for begin, end in zip([0, *places], [*places, len(stream)], strict=True)]
    assert split_all(pieces, count_max=count_max)[0] == sent
