"""What each kind of actor takes: what it alone reaches, not what is shared."""

import pytest
import trio.testing

from chatty.actors.runtime import ActorSpec, Mailbox, open_supervisor
from chatty.app.memory import weigh
from tests.server.app_fixtures import RunningApp
from tests.server.commands import chatty_admin, chatty_admin_json
from tests.server.wire_client import open_live_socket

MIB = 1_048_576


async def test_what_two_actors_reach_is_nobodys_own() -> None:
    shared = [bytes(5 * MIB)]

    def spec(name: str, size_bytes: int) -> ActorSpec[bytes]:
        async def run(mailbox: Mailbox[bytes]) -> None:
            own = bytearray(size_bytes)
            both = shared
            mailbox.ready()
            kept = [message async for message in mailbox]
            assert len(own) + len(both) + len(kept)

        return ActorSpec(name=name, run=run, mailbox_count_max=4)

    async with open_supervisor("root") as root:
        heavy, light = await root.start_supervisor("heavy"), await root.start_supervisor("light")
        for number in range(30):
            await heavy.start(spec(f"heavy {number}", MIB))
        one, _ = [await light.start(spec(f"light {number}", 1)) for number in range(2)]
        rows = {row["branch"]: row for row in await weigh(root.samples(count_max=20))}
        assert (rows["heavy"]["actors_count"], rows["heavy"]["sampled_count"]) == (30, 20)
        assert MIB < rows["heavy"]["bytes_each"] < MIB + 100_000
        assert rows["heavy"]["bytes_estimate"] == 30 * rows["heavy"]["bytes_each"]
        assert rows["light"]["bytes_each"] < 100_000
        one.tell(bytes(2 * MIB))
        await trio.testing.wait_all_tasks_blocked()
        [holding] = await weigh(root.samples(count_max=20)[1:])
        assert holding["bytes_each"] > MIB


@pytest.mark.usefixtures("logging_as_before")
async def test_the_operator_sees_it_of_a_running_server(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    async with open_live_socket(ann), open_live_socket(bob):
        answer = await chatty_admin_json(chat.settings.data_dir, "actors", "memory")
        table = await chatty_admin(chat.settings.data_dir, "actors", "memory")
    rows = {row["branch"]: row for row in answer["branches"]}
    assert rows["sessions"]["actors_count"] == rows["sessions"]["sampled_count"] == 2
    assert 2_000 < rows["sessions"]["bytes_each"] < 2 * MIB
    assert answer["resident_bytes"] > answer["actors_bytes"] > 0
    assert "sessions" in table.stdout
