"""The SDK changes a password on the real server: what a second device then gets, and what becomes of a lost answer."""

from pathlib import Path

import pytest

from chatty.client.weak_passwords import WeakPassword
from chatty.errors import DeviceRevoked, LoginRefused
from tests.client.lost_answers import NEW, OLD, open_device
from tests.server.conftest import open_server


async def test_a_second_device_logs_in_with_the_new_password_and_finds_the_same_secrets(
    database: str, tmp_path: Path
) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as first:
        await first.register()
        await first.change()
        async with open_device(server, tmp_path / "2") as second:
            with pytest.raises(LoginRefused):
                await second.login(OLD)
            await second.login(NEW)
            assert first.identity is not None
            assert second.identity is not None
            assert second.identity.recovery_secret == first.identity.recovery_secret
            assert second.identity.identity_seed == first.identity.identity_seed


@pytest.mark.parametrize("end_other_sessions", [True, False])
async def test_other_devices_are_ended_or_stay(database: str, tmp_path: Path, end_other_sessions: bool) -> None:
    async with (
        open_server(database, tmp_path) as server,
        open_device(server, tmp_path / "1") as first,
        open_device(server, tmp_path / "2") as second,
    ):
        await first.register()
        await second.login(OLD)
        await first.change(end_other_sessions=end_other_sessions)
        if end_other_sessions:
            with pytest.raises(DeviceRevoked):
                await second.api.account()
        else:
            await second.api.account()


async def test_an_old_proof_of_the_password_is_made_anew(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        async with server.pool.transaction() as connection:
            await connection.execute("UPDATE refresh_families SET stepped_up_at = now() - interval '1 hour'")
        await device.change()
        assert device.transport.seen.count("/v1/account/password") == 2
        assert device.transport.seen.count("/v1/step-up") == 1


async def test_a_wrong_old_password_is_noticed_without_asking_for_the_change(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        with pytest.raises(LoginRefused):
            await device.change("another password")
        assert "/v1/account/password" not in device.transport.seen


async def test_a_weak_password_is_refused_before_anything_is_sent(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        with pytest.raises(WeakPassword):
            await device.register("anna1234")
        assert device.transport.seen == []
        await device.register()
        device.transport.seen.clear()
        with pytest.raises(WeakPassword):
            await device.change(new="password123")
        assert device.transport.seen == []


async def test_a_change_whose_answer_was_lost_is_settled(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        device.transport.losing["/v1/account/password"] = 1
        await device.change()
        assert device.transport.seen.count("/v1/account/password") == 2
        async with open_device(server, tmp_path / "2") as second:
            await second.login(NEW)


async def test_an_account_of_an_older_derivation_logs_in_and_moves_to_the_newer(database: str, tmp_path: Path) -> None:
    older, both = "67108864/2", "67108864/3, 67108864/2"
    async with (
        open_server(database, tmp_path, key_derivations=older) as server,
        open_device(server, tmp_path / "1") as device,
    ):
        await device.register()
    async with open_server(database, tmp_path, key_derivations=both) as server:
        async with open_device(server, tmp_path / "2") as device:
            await device.login(OLD)
            assert (await device.api.account()).key_derivation.passes == 2
            assert device.transport.seen.count("/v1/login") == 2
            await device.change()
            assert (await device.api.account()).key_derivation.passes == 3
        async with open_device(server, tmp_path / "3") as device:
            await device.login(NEW)
            assert device.transport.seen.count("/v1/login") == 1
            with pytest.raises(LoginRefused):
                await device.login("neither of them")
            assert device.transport.seen.count("/v1/login") == 3
