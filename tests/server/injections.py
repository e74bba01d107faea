"""What is put where it does not belong: texts, and bytes of JSON and MessagePack that no text gives.

INJECTED stands in those texts that would make a header or a log line of their own.
"""

import struct
from collections.abc import Mapping

import msgspec

INJECTED = "X-Injected"
TEXTS: Mapping[str, str] = {
    "sql quote": "'; DROP TABLE users; --",
    "sql always true": "' OR '1'='1' --",
    "sql union": "1) UNION SELECT login_key_sealed FROM users --",
    "sql dollar": "$$; SELECT pg_sleep(9); $$",
    "sql parameter": "%s %(name)s $1 :x ?",
    "printf": "%s%s%n%x%99999d",
    "format string": "{0.__class__.__init__.__globals__}",
    "template": "${jndi:ldap://x} {{7*7}} <%= 7*7 %>",
    "shell": "`id`; $(id) | id && id",
    "path": "../../../../etc/passwd",
    "path of windows": "..\\..\\windows\\win.ini",
    "path escaped": "..%2f..%2f%252e%252e%00",
    "url": "file:///etc/passwd#@evil.example",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "crlf": f"x\r\n{INJECTED}: 1\r\n\r\n<html>",
    "line feed": f"x\n{INJECTED}: 1",
    "carriage return": f"x\r{INJECTED}: 1",
    "crlf escaped": f"x%0d%0a{INJECTED}:1",
    "line separators": f"x\u2028{INJECTED}\u2029{INJECTED}\x85{INJECTED}",
    "log line": '"}\n{"level": "error", "event": "' + INJECTED + '"}',
    "terminal": "\x1b[31mred\x1b]0;title\x07\x1b[2J",
    "rubout": "x\x7f\x7f\x08",
    "right to left": "ann\u202egnp.exe\u202c",
    "isolates": "\u2066ann\u2069\u200f",
    "zero width": "a\u200bn\u200cn\u200d\ufeff\u2060",
    "homoglyphs": "\u0430nn \u0430dm\u0456n",  # Cyrillic
    "full width": "\uff20\uff41\uff4e\uff4e\uff1a",
    "case that grows": "\ufb01 \u00df \u0130 \u0149 \u212a",
    "combining flood": "a" + "\u0301" * 40,
    "composed and not": "\u00e9 e\u0301",
    "tags": "a\U000e0061\U000e0062\U000e007f",
    "private and no characters": "\ue000\uffff\U0010ffff",
    "joined emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467\ufe0f\U0001f3f4\u200d\u2620",
    "long": "A" * 70_000,
    "combining flood, long": "a" + "\u0301" * 5_000,
    "spaces": " \t\u00a0\u3000 ",
    "empty": "",
    "word null": "null",
}
_DEEP = 20_000
# As bytes of JSON in the place of one value: what no value may be, wherever it stands,
BROKEN_JSON: Mapping[str, bytes] = {
    "NUL": b'"a\x00b"',
    "NUL escaped": b'"a\\u0000b"',
    "lone surrogate": b'"\\ud800"',
    "surrogates the wrong way": b'"\\udc00\\ud800"',
    "surrogate in bytes": b'"\xed\xa0\x80"',
    "overlong slash": b'"\xc0\xaf"',
    "overlong slash, three bytes": b'"\xe0\x80\xaf"',
    "overlong NUL": b'"\xc0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "no UTF-8": b'"\xff\xfe"',
    "half a character": b'"\xe2\x82"',
    "bad escape": b'"\\x41"',
    "control character": b'"a\nb"',
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "hexadecimal": b"0x1F",
    "leading zero": b"007",
    "deep lists": b"[" * _DEEP + b"]" * _DEEP,
    "deep objects": b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
    "deep and open": b"[" * _DEEP,
    "two values": b"1, 2",
    "comment": b"/* */ 1",
}
# and what some values may be.
ODD_JSON: Mapping[str, bytes] = {
    "integer above the largest": b"9007199254740992",
    "integer of 64 bits": b"18446744073709551616",
    "integer of 5,000 digits": b"9" * 5_000,
    "negative": b"-1",
    "minus zero": b"-0",
    "fraction": b"0.5",
    "float": b"1e400",
    "float of an integer": b"1E3",
    "true": b"true",
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "prototype": b'{"__proto__": {"is_admin": true}}',
    "another field": b'1, "is_admin": true',
}
# As bytes of MessagePack in the place of one value.
RAW_MSGPACK: Mapping[str, bytes] = {
    "no UTF-8": b"\xa2\xff\xfe",
    "overlong slash": b"\xa2\xc0\xaf",
    "surrogate in bytes": b"\xa3\xed\xa0\x80",
    "bytes": b"\xc4\x03abc",
    "text longer than the frame": b"\xdb\xff\xff\xff\xff",
    "bytes longer than the frame": b"\xc6\xff\xff\xff\xff",
    "list longer than the frame": b"\xdd\xff\xff\xff\xff",
    "object longer than the frame": b"\xdf\xff\xff\xff\xff",
    "extension": b"\xd4\x05\x00",
    "time": b"\xd6\xff\x00\x00\x00\x00",
    "never used": b"\xc1",
    "integer of 64 bits": b"\xcf" + b"\xff" * 8,
    "least integer": b"\xd3\x80" + bytes(7),
    "not a number": b"\xcb" + struct.pack(">d", float("nan")),
    "infinity": b"\xcb" + struct.pack(">d", float("-inf")),
    "float": b"\xca" + struct.pack(">f", 1.5),
    "true": b"\xc3",
    "nil": b"\xc0",
    "list": b"\x90",
    "object": b"\x80",
    "keys that are no text": b"\x81\x01\x02",
    "one key twice": b"\x82\xa1a\x01\xa1a\x02",
    "deep lists": b"\x91" * _DEEP + b"\xc0",
    "deep objects": b"\x81\xa1a" * _DEEP + b"\xc0",
}
PLACEHOLDER = "\ue000place\ue000"


def json_values() -> dict[str, bytes]:
    """All of them as bytes of JSON, by their names."""
    return {**{name: msgspec.json.encode(text) for name, text in TEXTS.items()}, **BROKEN_JSON, **ODD_JSON}


def msgpack_values() -> dict[str, bytes]:
    texts = {f"text {name}": msgspec.msgpack.encode(text) for name, text in TEXTS.items()}
    return {**texts, "NUL": msgspec.msgpack.encode("a\x00b"), **RAW_MSGPACK}


def inject(encoded: bytes, placeholder: bytes, value: bytes) -> bytes:
    """The encoded body or frame with the value where the placeholder stands, once."""
    before, found, after = encoded.partition(placeholder)
    assert found, "the placeholder is not there"
    return before + value + after
