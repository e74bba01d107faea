"""Errors have the same face everywhere: problem details, error frames, and one page that names them all."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from chatty.errors import ChattyError, DeviceSetStale, NotFound, Overloaded, StoreUnavailable, TokenExpired
from chatty.ids import ListVersion, RequestId, Seq, UserId
from chatty.web.problems import as_domain_error, describe, error_frame, problem_body, problem_headers
from chatty.wire import frames

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
REQUEST = RequestId("request-one")
STALE = DeviceSetStale(epoch=Seq(7), changed={UserId("@ann:x"): ListVersion(2)})


def kinds(root: type[ChattyError]) -> Iterator[type[ChattyError]]:
    """All that may be raised: leaves, and branches that have a code of their own."""
    for kind in root.__subclasses__():
        if "code" in vars(kind):
            yield kind
        yield from kinds(kind)


# The server's own; the client has two of its own, which never cross the network.
SERVED = [kind for kind in kinds(ChattyError) if kind.__module__ == ChattyError.__module__]
KINDS = sorted(SERVED, key=lambda kind: kind.code)


def test_a_problem_carries_what_mends_it_beside_the_standard_members() -> None:
    problem = msgspec.json.decode(problem_body(STALE, REQUEST))
    assert problem["changed"] == [{"user": "@ann:x", "list_version": 2}]
    assert (problem["epoch"], problem["code"], problem["status"]) == (7, "device_set_stale", 409)
    assert problem["type"] == "urn:chatty:error:device_set_stale"
    assert problem["request_id"] == REQUEST
    assert "retry_after_s" not in problem


def test_the_frame_says_the_same_as_the_problem() -> None:
    frame = error_frame(5, STALE)
    assert (frame.id, frame.code, frame.is_retryable) == (5, "device_set_stale", False)
    assert frame.details == STALE.fields()
    assert frames.decode_events(frames.encode([frame], encoding="json"), encoding="json") == [frame]


def test_retry_after_is_whole_seconds_and_never_too_early() -> None:
    assert problem_headers(Overloaded(limiter="rooms", retry_after_s=0.2)) == {"Retry-After": "1"}
    assert problem_headers(NotFound()) == {}


def test_an_expired_token_is_told_as_the_bearer_scheme_wants() -> None:
    assert "invalid_token" in problem_headers(TokenExpired())["WWW-Authenticate"]


def test_what_nobody_foresaw_says_nothing() -> None:
    told = as_domain_error(ZeroDivisionError("the secret"), body_bytes_max=1)
    assert told.code == "internal_error"
    assert "the secret" not in str(told)


def test_a_domain_error_passes_unchanged() -> None:
    error = StoreUnavailable("gone")
    assert as_domain_error(error, body_bytes_max=1) is error


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_error_is_described_in_one_sentence(kind: type[ChattyError]) -> None:
    assert re.fullmatch(rf"`{kind.code}`: \S.*", describe(kind))


def test_the_page_of_error_codes_is_complete_and_right() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text("utf-8").partition("\n## Errors\n")[2].partition("\n## ")[0].splitlines()
        if line.startswith("| `")
    ]
    told = {row[0].strip("`"): row[1:4] for row in rows}
    wanted = {
        kind.code: [str(kind.http_status), str(kind.close_code or ""), "yes" if kind.is_retryable else "no"]
        for kind in KINDS
    }
    assert told == wanted
