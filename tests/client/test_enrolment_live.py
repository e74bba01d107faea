"""Registering and logging in against the real accounts, over real HTTP: the same identity comes out on both devices."""

from pathlib import Path

import pytest

from chatty.errors import LoginRefused, NameTaken, SealBroken
from chatty.ids import UserId
from tests.client.enrolled import Enrolled
from tests.server.conftest import open_server

PASSWORD = "correct horse battery staple"


async def test_a_second_device_unwraps_the_same_identity(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server:
        first, second = Enrolled(tmp_path / "one", server), Enrolled(tmp_path / "two", server)
        made = await first.enrolment.register("anna", PASSWORD, token="", device_name="laptop")
        came = await second.enrolment.login(made.user, PASSWORD, device_name="phone")
        assert came.device != made.device
        assert (came.identity_seed, came.recovery_secret) == (made.identity_seed, made.recovery_secret)
        assert {device.name for device in (await second.api.devices()).devices} == {"laptop", "phone"}
        with pytest.raises(NameTaken):
            await second.enrolment.register("anna", PASSWORD, token="", device_name="")
        with pytest.raises((LoginRefused, SealBroken)):
            await second.enrolment.login(made.user, "a guess", device_name="")
        with pytest.raises(LoginRefused):
            await second.enrolment.login(UserId("@nobody:example.org"), PASSWORD, device_name="")
        await second.api.tokens.access_token(refused=await second.api.tokens.access_token())
        await first.api.revoke_device(came.device)
        await first.close()
        await second.close()
