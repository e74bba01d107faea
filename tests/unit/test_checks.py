"""What makes a server not ready, or warns, beside its database."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatty.actors.runtime import ActorSpec, Mailbox, open_supervisor
from chatty.app import checks
from chatty.app.checks import check_disk, check_journal, journal_age_s_max


async def test_a_journal_that_hangs_is_not_ready_until_it_goes_on(autojump_clock: MockClock) -> None:
    goes_on = trio.Event()

    async def run(mailbox: Mailbox[str]) -> None:
        mailbox.ready()
        async for _ in mailbox:
            await goes_on.wait()

    async with open_supervisor("root") as root:
        branch = await root.start_supervisor("journal")
        journal = await branch.start(ActorSpec(name="group", run=run, mailbox_count_max=4))
        assert (await check_journal(root)).is_ready
        journal.tell("in hand")
        await trio.sleep(journal_age_s_max - 1)
        assert (await check_journal(root)).is_ready
        await trio.sleep(2)
        hanging = await check_journal(root)
        assert (hanging.is_ready, hanging.reason) == (False, "a message has waited for its commit for 16 s")
        goes_on.set()
        await wait_all_tasks_blocked()
        assert (await check_journal(root)).is_ready


async def test_a_full_disk_warns_and_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await check_disk(tmp_path)).is_ready
    monkeypatch.setattr(checks, "disk_bytes_min", 1 << 60)
    short = await check_disk(tmp_path)
    assert (short.is_ready, "GiB" in short.warning) == (True, True)
    assert str(tmp_path) not in short.warning
