"""Recovery codes: random, shown once, kept as a hash.

A code has 100 bits, so nobody finds it by trying, not even with its hash in hand: SHA-256 without a key and without slowness is
enough, which it never would be for what people choose. The user id is hashed along, so one trial serves one account only.
"""

from hashlib import sha256

from chatty.crypto.sealing import Random
from chatty.ids import UserId

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: nothing that looks like something else
_group_chars = 5
_groups_count = 4
_DOMAIN = b"chatty.recovery_code.v1"
_READ_AS = str.maketrans({"o": "0", "i": "1", "l": "1", "-": "", " ": ""})


def make_code(random: Random) -> str:
    """Such as 7k2mq-0c9sx-tn4v8-hd3fa."""
    letters = [_ALPHABET[byte % 32] for byte in random(_group_chars * _groups_count)]
    return "-".join("".join(letters[at : at + _group_chars]) for at in range(0, len(letters), _group_chars))


def code_hash(user: UserId, code: str) -> bytes:
    """32 bytes; the same however the code was written down."""
    parts = (user.encode(), code.lower().translate(_READ_AS).encode())
    return sha256(_DOMAIN + b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
