"""What a newcomer opens in a browser leads on to something."""

import re
from pathlib import Path

from tests.server.app_fixtures import RunningApp


async def test_every_link_of_the_first_page_answers(chat: RunningApp) -> None:
    page = (await chat.http.get("/")).text
    links = re.findall(r'href="([^"]+)"', page)
    assert {"/openapi.json", "/asyncapi.json", "/readyz"} <= set(links)
    for link in links:
        assert (await chat.http.get(link)).status_code == 200, link


async def test_the_documents_describe_each_other_s_side(chat: RunningApp) -> None:
    http, socket = (await chat.http.get("/openapi.json")).json(), (await chat.http.get("/asyncapi.json")).json()
    assert "/asyncapi.json" in http["paths"]
    assert socket["asyncapi"] == "3.0.0"
    assert socket["channels"]["socket"]["address"] == "/v1/ws"
    assert http["info"]["version"] == socket["info"]["version"]


async def test_every_route_stands_in_the_protocol_with_its_permission_and_no_other(chat: RunningApp) -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
    section = page.partition("\n## HTTP\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+ [^`?]+)[^`]*` \| ([a-z ]+) \| (yes)? ?\|", section, re.MULTILINE))
    operators = re.findall(r"^\| `GET /livez`, (.*?) \| public", section, re.MULTILINE)[0]
    told |= {(f"GET {path}", "public", "") for path in ["/livez", *re.findall(r"`([^`]+)`", operators)]}

    paths = (await chat.http.get("/openapi.json")).json()["paths"]
    served = {
        (f"{method.upper()} {path}", permission(operation), "yes" if is_numbered(operation) else "")
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert told == served


def permission(operation: dict[str, str]) -> str:
    return str(re.findall(r"Permission: `(\w+)`", operation["description"])[0]).replace("_", " ")


def is_numbered(operation: dict[str, str]) -> bool:
    return "Idempotency-Key" in str(operation["parameters"])
