"""What a newcomer opens in a browser leads on to something."""

import re

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
