"""The OpenAPI document says of each route what is enforced, and where its answer leads."""

from typing import Any

import jsonschema
import pytest

from chatty.errors import BadKey, InvalidDpopProof, NotFound
from chatty.ids import RoomId
from chatty.services.caller import Caller
from chatty.services.permissions import PUBLIC, SIGNED_IN
from chatty.web.openapi import make_document
from chatty.web.routes import Reply, Route, route
from chatty.wire.accounts import HttpBody
from chatty.wire.types import RoomIdField, SeqField


class Made(HttpBody, frozen=True, kw_only=True):
    room: RoomIdField
    sealed: bytes = b""


class Listed(HttpBody, frozen=True, kw_only=True):
    rooms: list[Made]
    next_after: str = ""


class Note(HttpBody, frozen=True, kw_only=True):
    room: RoomIdField
    seq: SeqField


def sample_routes() -> list[Route]:
    @route("POST", "/v1/rooms", permission=PUBLIC, statuses=(201, 200), errors=(InvalidDpopProof,))
    async def make() -> Reply[Made]:
        """Make a room."""
        raise NotImplementedError

    @route("GET", "/v1/rooms", permission=PUBLIC, statuses=(200, 503))
    async def listed(after: str = "", limit: int = 5) -> Listed:
        """List them."""
        raise NotImplementedError

    @route("POST", "/v1/rooms/{room}/notes", permission=SIGNED_IN, errors=(NotFound, BadKey))
    async def note(caller: Caller, room: RoomIdField, body: Made) -> Note:
        """Make a note."""
        raise NotImplementedError

    @route("GET", "/v1/rooms/{room}/notes/{seq}", permission=SIGNED_IN)
    async def read(caller: Caller, room: RoomIdField, seq: SeqField) -> Note:
        """Read a note."""
        raise NotImplementedError

    @route("GET", "/v1/other/{room}", permission=PUBLIC)
    async def other(room: str) -> Made:
        """Whose room is another type."""
        raise NotImplementedError

    return [make, listed, note, read, other]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document(sample_routes(), version="1")


def links(document: dict[str, Any], method: str, path: str, status: str = "200") -> dict[str, dict[str, str]]:
    """Parameters of each link of an answer."""
    found = document["paths"][path][method]["responses"][status].get("links", {})
    return {name: link["parameters"] for name, link in found.items()}


def test_an_answer_leads_to_the_routes_that_take_what_it_names(document: dict[str, Any]) -> None:
    expected = {"post_v1_rooms_room_notes": {"room": "$response.body#/room"}}
    assert links(document, "post", "/v1/rooms", "201") == links(document, "post", "/v1/rooms") == expected


def test_a_list_leads_on_by_its_first_item_and_to_its_next_page(document: dict[str, Any]) -> None:
    assert links(document, "get", "/v1/rooms") == {
        "post_v1_rooms_room_notes": {"room": "$response.body#/rooms/0/room"},
        "get_v1_rooms_next": {"after": "$response.body#/next_after"},
    }
    assert links(document, "get", "/v1/rooms", "503") == {}


def test_what_both_paths_name_is_passed_on_and_an_answer_without_news_leads_nowhere(document: dict[str, Any]) -> None:
    assert links(document, "post", "/v1/rooms/{room}/notes") == {
        "get_v1_rooms_room_notes_seq": {"room": "$request.path.room", "seq": "$response.body#/seq"}
    }
    assert links(document, "get", "/v1/rooms/{room}/notes/{seq}") == {}


def test_each_status_names_the_codes_that_come_with_it(document: dict[str, Any]) -> None:
    answer = document["paths"]["/v1/rooms/{room}/notes"]["post"]["responses"]["400"]
    schema = {**answer["content"]["application/problem+json"]["schema"], "components": document["components"]}
    problem = {
        "type": "urn:chatty:error:bad_key",
        "title": "Bad key",
        "status": 400,
        "detail": "",
        "code": "bad_key",
        "request_id": "abcdefgh",
        "is_retryable": False,
    }
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(problem)
    assert not validator.is_valid({**problem, "code": "not_found"})
    assert not validator.is_valid({**problem, "status": "400"})


def test_a_status_that_is_an_answer_and_an_errors_too_has_both(document: dict[str, Any]) -> None:
    answer = document["paths"]["/v1/rooms"]["get"]["responses"]["503"]
    assert answer["content"].keys() == {"application/json", "application/problem+json"}
    assert "overloaded" in answer["description"]


def test_a_token_goes_with_a_proof_and_a_proof_may_go_alone(document: dict[str, Any]) -> None:
    paths = document["paths"]
    assert paths["/v1/rooms/{room}/notes"]["post"]["security"] == [{"access_token": [], "proof": []}]
    assert paths["/v1/rooms"]["post"]["security"] == [{"proof": []}]
    assert paths["/v1/rooms"]["get"]["security"] == []
    assert document["components"]["securitySchemes"]["proof"]["name"] == "DPoP"


@pytest.mark.parametrize(
    ("text", "is_valid"), [("", True), ("AAAA", True), ("AA==", True), ("AAA", False), ("A A=", False), ("AAA-", False)]
)
def test_what_base64_is_stands_in_a_pattern(document: dict[str, Any], text: str, is_valid: bool) -> None:
    schema = {"$ref": "#/components/schemas/Made", "components": document["components"]}
    made = {"room": RoomId("!" + "A" * 43), "sealed": text}
    assert jsonschema.Draft202012Validator(schema).is_valid(made) is is_valid
