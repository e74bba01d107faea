"""What a message may cost the database, in round trips; more is a regression that somebody must decide on."""

from pathlib import Path

from tests.server.app_fixtures import open_chat
from tests.server.test_metrics import scrape, value
from tests.server.wire_client import ciphertext, open_live_socket


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
