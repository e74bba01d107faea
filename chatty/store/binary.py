"""PostgreSQL's binary format for the few types that the journal's statements use: packed and unpacked by hand.

psycopg types a list of integers by its values (int2, int4 or int8), so a prepared statement would change from call to
call; these always give the type that their name says, at a third of the cost. Format: dimensions, whether there are
NULLs, the element type's oid, count, lower bound 1, then each element with its length (-1 for NULL), all big-endian.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

Value = Any  # int | bytes | str | bool | float | None, or a list of one of them
Decoder = Callable[[bytes], Value]

_BOOL, _BYTEA, _INT8, _INT2, _INT4, _TEXT = 16, 17, 20, 21, 23, 25
_HEADER = struct.Struct(">iIIii")
_LENGTH = struct.Struct(">i")
_NULL = b"\xff\xff\xff\xff"
_pack_int8 = struct.Struct(">q").pack
_pack_int4 = struct.Struct(">i").pack
_unpack_int8 = struct.Struct(">q").unpack
_unpack_int4 = struct.Struct(">i").unpack
_unpack_int2 = struct.Struct(">h").unpack
_unpack_float8 = struct.Struct(">d").unpack


def int8(value: int) -> bytes:
    return _pack_int8(value)


def int4(value: int) -> bytes:
    return _pack_int4(value)


def boolean(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


def text(value: str) -> bytes:
    return value.encode()


def int8_array(values: Sequence[int]) -> bytes:
    """int8[] without NULLs."""
    return _packed_integers(values, oid=_INT8, size=8, code="q")


def int4_array(values: Sequence[int]) -> bytes:
    """int4[] without NULLs."""
    return _packed_integers(values, oid=_INT4, size=4, code="i")


def bytea_array(values: Sequence[bytes]) -> bytes:
    """bytea[] without NULLs."""
    return _packed_bytes(values, oid=_BYTEA)


def text_array(values: Sequence[str]) -> bytes:
    """text[] without NULLs."""
    return _packed_bytes([value.encode() for value in values], oid=_TEXT)


def bool_array(values: Sequence[bool]) -> bytes:
    """bool[] without NULLs."""
    elements = b"".join([b"\x00\x00\x00\x01\x01" if value else b"\x00\x00\x00\x01\x00" for value in values])
    return _header(len(values), oid=_BOOL) + elements


def nullable_int8_array(values: Sequence[int | None]) -> bytes:
    return _packed_nullable([None if value is None else _pack_int8(value) for value in values], oid=_INT8)


def nullable_int4_array(values: Sequence[int | None]) -> bytes:
    return _packed_nullable([None if value is None else _pack_int4(value) for value in values], oid=_INT4)


def nullable_bytea_array(values: Sequence[bytes | None]) -> bytes:
    return _packed_nullable(values, oid=_BYTEA)


def nullable_text_array(values: Sequence[str | None]) -> bytes:
    return _packed_nullable([None if value is None else value.encode() for value in values], oid=_TEXT)


def nullable_bool_array(values: Sequence[bool | None]) -> bytes:
    return _packed_nullable([None if value is None else boolean(value) for value in values], oid=_BOOL)


def decoder_for(oid: int) -> Decoder | None:
    """The decoder of a result column's type; None when this module does not speak it (cast it in the SQL)."""
    return _DECODERS.get(oid)


def _header(count: int, *, oid: int, has_nulls: bool = False) -> bytes:
    if count == 0:
        return struct.pack(">iII", 0, 0, oid)
    return _HEADER.pack(1, has_nulls, oid, count, 1)


@lru_cache(maxsize=1024)
def _integers_struct(count: int, code: str) -> struct.Struct:
    """One format for header and elements together: a batch's size repeats, and one pack call is what makes it cheap."""
    return struct.Struct(">iIIii" + f"i{code}" * count)


def _packed_integers(values: Sequence[int], *, oid: int, size: int, code: str) -> bytes:
    count = len(values)
    if count == 0:
        return _header(0, oid=oid)
    flat = [size] * (2 * count)
    flat[1::2] = values
    return _integers_struct(count, code).pack(1, 0, oid, count, 1, *flat)


def _packed_bytes(values: Sequence[bytes], *, oid: int) -> bytes:
    parts = [_header(len(values), oid=oid)]
    pack_length = _LENGTH.pack
    for value in values:
        parts += (pack_length(len(value)), value)
    return b"".join(parts)


def _packed_nullable(values: Iterable[bytes | None], *, oid: int) -> bytes:
    elements = list(values)
    parts = [_header(len(elements), oid=oid, has_nulls=None in elements)]
    parts += [_NULL if value is None else _LENGTH.pack(len(value)) + value for value in elements]
    return b"".join(parts)


def _array(data: bytes, *, element: Decoder) -> list[Value]:
    dimensions = _LENGTH.unpack_from(data)[0]
    if dimensions == 0:
        return []
    if dimensions != 1:
        raise ValueError("only arrays of one dimension are decoded")
    count = _LENGTH.unpack_from(data, 12)[0]
    at, values = _HEADER.size, []
    for _ in range(count):
        size = _LENGTH.unpack_from(data, at)[0]
        at += 4
        values.append(None if size < 0 else element(data[at : at + size]))
        at += max(size, 0)
    return values


def _int8_of(data: bytes) -> int:
    return int(_unpack_int8(data)[0])


def _int4_of(data: bytes) -> int:
    return int(_unpack_int4(data)[0])


def _int2_of(data: bytes) -> int:
    return int(_unpack_int2(data)[0])


def _float8_of(data: bytes) -> float:
    return float(_unpack_float8(data)[0])


def _bool_of(data: bytes) -> bool:
    return data == b"\x01"


def _nothing_of(data: bytes) -> None:
    return None


# Keys are PostgreSQL's fixed oids: scalars first, then their arrays. void is what pg_notify() and locks return.
_SCALARS: tuple[tuple[int, Decoder, int], ...] = (
    (_BOOL, _bool_of, 1000),
    (_BYTEA, bytes, 1001),
    (_INT8, _int8_of, 1016),
    (_INT2, _int2_of, 1005),
    (_INT4, _int4_of, 1007),
    (_TEXT, bytes.decode, 1009),
    (1043, bytes.decode, 1015),
    (701, _float8_of, 1022),
)
_DECODERS: dict[int, Decoder] = {
    **{oid: decoder for oid, decoder, _ in _SCALARS},
    **{array_oid: partial(_array, element=decoder) for _, decoder, array_oid in _SCALARS},
    2278: _nothing_of,
}
