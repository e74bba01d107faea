"""Which passwords are refused before anything is made of them. Only the client can look: the server never sees one.

What a list of common passwords, a name or a finger on the keyboard gives is tried first by whoever guesses. The rules are
few and can be told: at least `length_min` characters; none of the common ones (common_passwords.txt, one a line, written for this
file); not the user's own name with digits and signs around it; not one character again and again; no run along the alphabet, the
digits or the keyboard, nor several of them one after the other. Case makes no difference.
"""

import unicodedata
from collections.abc import Collection
from enum import Enum
from functools import cache
from importlib.resources import files

from chatty.client.reasons import ClientError

length_min = 8  # characters
run_length_min = 3  # of a piece of a run: shorter ones are chance

_ROWS = (
    "1234567890",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "qsdfghjklm",
    "wxcvbn",
)
_COLUMNS = ("1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p", "qazwsxedcrfvtgbyhnujmikolp", "1q2w3e4r5t6y7u8i9o0p")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TRACKS = (*_ROWS, *_COLUMNS, _LETTERS, "0123456789")


class Weakness(Enum):
    """Why a password is refused."""

    TOO_SHORT = "too_short"
    COMMON = "common"
    OWN_NAME = "own_name"
    ONE_CHARACTER = "one_character"
    RUN = "run"


class WeakPassword(ClientError):
    """Nothing was sent. `reason`: the rule that it breaks."""

    def __init__(self, reason: Weakness) -> None:
        super().__init__(f"choose another password: {reason.value.replace('_', ' ')}")
        self.reason = reason


def check_password(password: str, *, name: str) -> None:
    """name: the user's, before the colon of the user id. Raises: WeakPassword."""
    text = unicodedata.normalize("NFC", password)
    folded = text.casefold()
    if len(text) < length_min:
        raise WeakPassword(Weakness.TOO_SHORT)
    if len(set(folded)) == 1:
        raise WeakPassword(Weakness.ONE_CHARACTER)
    if folded in common_passwords():
        raise WeakPassword(Weakness.COMMON)
    if _letters(folded) == _letters(name) != "" or folded == name:
        raise WeakPassword(Weakness.OWN_NAME)
    if is_run(folded):
        raise WeakPassword(Weakness.RUN)


@cache
def common_passwords() -> Collection[str]:
    text = files("chatty.client").joinpath("common_passwords.txt").read_text(encoding="utf-8")
    return frozenset(text.split())


def is_run(text: str) -> bool:
    """Is it nothing but pieces of runs, one after the other?"""
    at = 0
    while at < len(text):
        length = max(_run_length(text[at:], track) for track in _tracks())
        if length < run_length_min:
            return False
        at += length
    return True


def _run_length(text: str, track: str) -> int:
    """Of the longest piece of the track that the text begins with."""
    length = 0
    while length < len(text) and text[: length + 1] in track:
        length += 1
    return length


@cache
def _tracks() -> tuple[str, ...]:
    """Both ways, and round: 8901, xyzabc."""
    return tuple(way + way for track in _TRACKS for way in (track, track[::-1]))


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isalpha())
