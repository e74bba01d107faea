"""The chain and its encodings, by property: nothing about an event can change without its leaf and every later head changing."""

from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chatty.errors import BadRequest, NotEncrypted
from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId
from chatty.wire import chain, limits
from chatty.wire.canonical import canonical_json, decode_base64, encode_base64
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.megolm import check_megolm

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
integers = st.integers(0, limits.integer_max)
fields: dict[str, st.SearchStrategy[Any]] = {
    "room": texts.map(RoomId),
    "seq": integers.map(Seq),
    "time": integers,
    "kind": st.sampled_from(Kind),
    "sender": texts.map(UserId),
    "device": texts.map(DeviceId),
    "n": integers.map(SendNumber),
    "algorithm": texts,
    "session_id": texts,
    "epoch": integers.map(Seq),
    "silent": st.booleans(),
    "expiry": integers,
    "target": texts,
    "signature": st.binary(max_size=8),
    "body": st.binary(max_size=8),
}
events = st.builds(TimelineEvent, **fields)


@given(events, events)
def test_two_events_never_share_a_leaf(one: TimelineEvent, other: TimelineEvent) -> None:
    assert (chain.leaf(one) == chain.leaf(other)) == (one == other)


@pytest.mark.parametrize("field", fields)
@given(event=events, data=st.data())
def test_a_leaf_covers_every_field(field: str, event: TimelineEvent, data: st.DataObject) -> None:
    value = data.draw(fields[field])
    assume(value != getattr(event, field))
    assert chain.leaf(msgspec.structs.replace(event, **{field: value})) != chain.leaf(event)


@given(events)
def test_text_that_moves_from_one_field_to_the_next_is_noticed(event: TimelineEvent) -> None:
    moved = msgspec.structs.replace(event, algorithm=event.algorithm + event.session_id, session_id="")
    assert (chain.meta(moved) == chain.meta(event)) == (event.session_id == "")


@given(events)
def test_a_withheld_body_keeps_the_leaf(event: TimelineEvent) -> None:
    withheld = msgspec.structs.replace(event, body=None, body_hash=chain.body_hash(event))
    assert chain.leaf(withheld) == chain.leaf(event)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=6, unique=True), st.data())
def test_a_head_names_all_leaves_in_their_order(leaves: list[bytes], data: st.DataObject) -> None:
    def head_of(order: list[bytes]) -> bytes:
        head = chain.empty_head(RoomId("!room"))
        for leaf in order:
            head = chain.next_head(head, leaf)
        return head

    other = data.draw(st.permutations(leaves) | st.just(leaves[:-1]) | st.just(leaves[1:]))
    assert (head_of(other) == head_of(leaves)) == (other == leaves)


@given(st.lists(st.tuples(texts, texts, texts), max_size=5, unique=True), st.data())
def test_a_device_list_has_one_digest_in_any_order(devices: list[tuple[str, str, str]], data: st.DataObject) -> None:
    digest = chain.device_list_digest(devices)
    assert chain.device_list_digest(data.draw(st.permutations(devices))) == digest
    if devices:
        assert chain.device_list_digest(devices[1:]) != digest


_send_fields: dict[str, st.SearchStrategy[Any]] = {
    name: fields[name]
    for name in ("kind", "room", "epoch", "algorithm", "session_id", "silent", "expiry", "target", "body")
}


@given(st.fixed_dictionaries(_send_fields), st.fixed_dictionaries(_send_fields))
def test_two_requests_never_share_a_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (chain.send_digest(**one) == chain.send_digest(**other)) == (one == other)


@given(texts, st.binary(max_size=20), texts, st.binary(max_size=20))
def test_requests_over_http_are_named_by_operation_and_body(
    operation: str, body: bytes, other_operation: str, other_body: bytes
) -> None:
    same = chain.request_digest(operation, body) == chain.request_digest(other_operation, other_body)
    assert same == ((operation, body) == (other_operation, other_body))


# Encodings ----------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-limits.integer_max, limits.integer_max) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_canonical_json_reads_back_and_is_a_fixed_point(value: Any) -> None:
    encoded = canonical_json(value)
    assert msgspec.json.decode(encoded) == value
    assert canonical_json(msgspec.json.decode(encoded)) == encoded


@given(st.dictionaries(texts, texts, min_size=2, max_size=5), st.data())
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, str], data: st.DataObject) -> None:
    assert canonical_json(dict(data.draw(st.permutations(list(value.items()))))) == canonical_json(value)


@pytest.mark.parametrize("value", [0.5, float("nan"), 2**53, -(2**53), "\ud800", {1: 2}, b"x", {"a": [0.0]}])
def test_what_has_no_one_form_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest):
        canonical_json(value)


@given(st.binary(max_size=70))
def test_base64_reads_back(data: bytes) -> None:
    assert decode_base64(encode_base64(data), length=len(data)) == data


@given(st.text("ABCabc019+/=-_ \n", max_size=12))
def test_each_value_has_one_base64_text(text: str) -> None:
    try:
        data = decode_base64(text)
    except BadRequest:
        return
    assert encode_base64(data) == text


# The shape of a Megolm message --------------------------------------------------------------------------------------


def message(index: int, ciphertext: bytes) -> bytes:
    return b"\x03\x08" + varint(index) + b"\x12" + varint(len(ciphertext)) + ciphertext + bytes(72)


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_what_has_the_shape_is_taken_and_tells_its_index(index: int, blocks_count: int) -> None:
    assert check_megolm(message(index, bytes(16 * blocks_count))) == index


@given(st.integers(0, 300), st.integers(1, 4), st.data())
def test_a_byte_more_or_less_anywhere_is_refused(index: int, blocks_count: int, data: st.DataObject) -> None:
    right = message(index, bytes(16 * blocks_count))
    at = data.draw(st.integers(0, len(right) - 1))
    header_bytes = len(right) - 16 * blocks_count - 72
    if at >= header_bytes:
        for wrong in (right[:at] + right[at + 1 :], right[:at] + b"\x00" + right[at:], right + b"\x00"):
            with pytest.raises(NotEncrypted):
                check_megolm(wrong)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_and_break_nothing(data: bytes) -> None:
    try:
        check_megolm(data)
    except NotEncrypted:
        return
    assert data[0] == 3
