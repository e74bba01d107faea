"""What makes a server not ready, or warns, beside its database."""

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatty.actors.runtime import ActorSpec, Mailbox, open_supervisor
from chatty.app import checks
from chatty.app.backups import NewestBackup, suffix
from chatty.app.checks import check_backups, check_disk, check_journal, journal_age_s_max
from chatty.config import Settings
from chatty.telemetry import Metrics


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


async def test_a_directory_of_backups_that_is_sick_or_hangs_warns_and_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def warning(folder: Path, interval_s: float = 60.0) -> str:
        settings = Settings(data_dir=tmp_path, backup_dir=folder, backup_interval_s=interval_s)
        check = await check_backups(settings, NewestBackup(settings, Metrics()))
        assert check.is_ready
        return check.warning

    assert await warning(tmp_path, interval_s=0.0) == ""
    assert await warning(tmp_path) == "there is no backup"
    sick = await warning(tmp_path / ("x" * 300))
    assert "File name too long" in sick
    assert str(tmp_path) not in sick
    monkeypatch.setattr(checks, "readiness_timeout_s", 0.1)
    hanging = tmp_path / f"a{suffix}"
    os.mkfifo(hanging)
    try:
        assert await warning(tmp_path) == "the disk has not answered within 0.1 s"
    finally:
        os.close(os.open(hanging, os.O_RDWR))  # who reads it goes on
