"""What the main routes and a message may cost the database, in round trips; more is a regression that somebody must decide on.

A transaction costs two by itself: BEGIN and COMMIT. The server of the routes has no actors and no jobs: nobody else counts in.
"""

import re
from pathlib import Path

import httpx

from tests.server.app_fixtures import open_chat
from tests.server.conftest import RunningServer, open_server
from tests.server.test_metrics import scrape, value
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import SERVER_NAME, sign_up

BUDGETS = {
    "POST /v1/salt": 0,
    "POST /v1/register": 6,
    "POST /v1/token": 8,
    "POST /v1/keys/upload": 21,
    "POST /v1/keys/query": 6,
    "GET /v1/account": 2,
    "GET /v1/devices": 2,
    "GET /v1/rooms": 5,
    "GET /v1/rooms/{id}/events": 7,
    "POST /v1/rooms": 23,
    "POST /v1/rooms/{id}/invitations": 21,
    "POST /v1/rooms/{id}/members": 28,
    "POST /v1/to-device": 13,
}
_ID = re.compile(r"/(?:!|@|%21|%40|[A-Za-z0-9_-]{20,})[^/?]*")


class Spending:
    """Round trips of each request, the most by its method and path."""

    def __init__(self, running: RunningServer) -> None:
        self._pool = running.pool
        self._before = 0
        self.most: dict[str, int] = {}
        running.http.event_hooks = {"request": [self._begin], "response": [self._end]}

    async def _begin(self, request: httpx.Request) -> None:
        self._before = self._pool.statistics().trips_total

    async def _end(self, response: httpx.Response) -> None:
        if not response.is_success:  # asked for another nonce
            return
        operation = f"{response.request.method} {_ID.sub('/{id}', response.request.url.path)}"
        spent = self._pool.statistics().trips_total - self._before
        self.most[operation] = max(spent, self.most.get(operation, 0))


async def test_no_main_route_costs_more_than_its_budget(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path, server_name=SERVER_NAME) as running:
        spent = await spent_by_main_routes(running)
    assert spent.keys() == BUDGETS.keys()
    assert {operation: trips for operation, trips in spent.items() if trips > BUDGETS[operation]} == {}


async def spent_by_main_routes(running: RunningServer) -> dict[str, int]:
    spending = Spending(running)
    ann, bob = await sign_up(running.http, "ann"), await sign_up(running.http, "bob")
    await ann.person.refresh(ann.tokens["refresh_token"])
    for path in ("/v1/account", "/v1/devices", "/v1/rooms"):
        await ann.get(path)
    await ann.post("/v1/keys/query", {"device_keys": {bob.user: []}})
    room = await ann.create_room()
    await room.join(bob, invited_by=ann)
    await bob.history(room.id)
    await ann.send_to_devices(bob)
    await room.kick(ann, bob)
    return spending.most


async def test_a_message_costs_two_round_trips_and_a_batch_no_more(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        room = await ann.create_room(bob)
        async with open_live_socket(ann) as socket:
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
            before = value(await scrape(chat), "chatty_database_trips_total", by="journal")
            for _ in range(5):
                await socket.send(room.id, ciphertext(), epoch=room.epoch)
            one_by_one = value(await scrape(chat), "chatty_database_trips_total", by="journal")
            await socket.send_all(room.id, [ciphertext() for _ in range(50)], epoch=room.epoch)
            together = value(await scrape(chat), "chatty_database_trips_total", by="journal")
    assert one_by_one - before == 10
    assert 2 <= together - one_by_one < 50
