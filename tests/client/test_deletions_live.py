"""The SDK deletes an account on the real server: what the others notice, how they go on, and what becomes of a lost answer."""

from pathlib import Path

import pytest
import trio

from chatty.client import Client, Invited, MembershipChanged, Message, ServerLied, SignedOut
from chatty.client.deletions import Deletion, delete_account
from chatty.errors import DeviceRevoked, Forbidden, LoginRefused, NotFound
from chatty.wire.deletions import Receipt
from chatty.wire.events import Action
from tests.client.conftest import seq_of, until
from tests.client.lost_answers import OLD, Device, open_device
from tests.server.conftest import RunningServer, open_server
from tests.server.sdk_people import open_origin, opener

_COUNT = "SELECT count(*) FROM deletions"


async def finished(client: Client, token: str) -> Receipt:
    with trio.fail_after(20):
        while (receipt := await client.receipt(token)).finished is None:  # noqa: ASYNC110  # it can only be asked for
            await trio.sleep(0.05)
    return receipt


async def hear(client: Client, wanted: str) -> None:
    """Read on until this was said; by whom and where is all the same, and some of it may be from before this device."""
    with trio.fail_after(10):
        async for update in client.messages():
            assert not isinstance(update, ServerLied), update
            if isinstance(update, Message) and update.text == wanted:
                return


async def removed(client: Client) -> MembershipChanged:
    while True:
        update = await until(client, MembershipChanged)
        assert isinstance(update, MembershipChanged)
        if update.action is Action.REMOVE:
            return update


async def test_the_others_go_on_and_a_new_device_reads_from_the_beginning(database: str, tmp_path: Path) -> None:
    async with open_origin(database, tmp_path) as origin:
        open_one = opener(origin, tmp_path)
        async with open_one("ann") as ann, open_one("bob") as bob, open_one("cid") as cid, open_one("phone") as phone:
            for name, client in (("ann", ann), ("bob", bob), ("cid", cid)):
                await client.register(name, f"the long password of {name}")
            room = await ann.create_room(invite=[bob.user, cid.user])
            for client in (bob, cid):
                await until(client, Invited)
                await client.join(room.id)
            direct = await bob.direct(ann.user)
            await direct.send("between us")
            other = await ann.create_room(invite=[cid.user])
            await until(cid, Invited)
            bobs, cids, gone = bob.room(room.id), cid.room(room.id), ann.user
            await room.send("before")
            for client in (bob, cid):
                await hear(client, "before")

            deletion = await ann.delete_account("the long password of ann")
            await until(ann, SignedOut)
            for client in (bob, cid):
                assert (await removed(client)).target == gone
            receipt = await finished(bob, deletion.token)
            assert all(one.is_done for one in receipt.stores)

            await bobs.send("after")
            await hear(cid, "after")
            await cids.send("still here")
            await hear(bob, "still here")
            assert set(bobs.members) == set(cids.members) == {bob.user, cid.user}
            with pytest.raises((NotFound, Forbidden)):
                await cid.join(other.id)

            await phone.login(bob.user, "the long password of bob")
            same = phone.room(room.id)
            await same.read_up_to(seq_of(bobs))
            await phone.room(direct.id).read_up_to(seq_of(direct))
            assert (same.frozen, phone.room(direct.id).frozen) == (None, None)
            assert set(same.members) == {bob.user, cid.user}
            await bobs.send("to the phone too")
            await hear(phone, "to the phone too")
            for one in (bob, cid, phone):
                assert one._engine.messages._erased == {}


# The request --------------------------------------------------------------------------------------------------------


async def delete(device: Device, password: str = OLD) -> Deletion:
    return await delete_account(device.api, device.password, password)


async def deletions_count(server: RunningServer) -> int:
    [(count,)] = await server.rows(_COUNT)
    return int(count)


async def test_a_wrong_password_deletes_nothing(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        with pytest.raises(LoginRefused):
            await delete(device, "another password")
        assert await deletions_count(server) == 0
        await device.api.account()


async def test_who_asks_is_proven_anew(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        await server.execute("UPDATE refresh_families SET stepped_up_at = now() - interval '1 hour'")
        await delete(device)
        assert await deletions_count(server) == 1


@pytest.mark.parametrize("lost_count", [1, 2])
async def test_a_deletion_whose_answer_was_lost_is_settled(database: str, tmp_path: Path, lost_count: int) -> None:
    async with open_server(database, tmp_path) as server, open_device(server, tmp_path / "1") as device:
        await device.register()
        device.transport.losing["/v1/account"] = lost_count
        deletion = await delete(device)
        assert deletion.receipt == await device.api.receipt(deletion.token)
        assert await deletions_count(server) == 1
        with pytest.raises(DeviceRevoked):
            await device.api.account()


async def test_each_deletion_has_a_token_of_its_own(database: str, tmp_path: Path) -> None:
    async with (
        open_server(database, tmp_path) as server,
        open_device(server, tmp_path / "1") as one,
        open_device(server, tmp_path / "2", "bobby") as other,
    ):
        tokens = []
        for device in (one, other):
            await device.register()
            tokens.append((await delete(device)).token)
        assert tokens[0] != tokens[1]
        assert [len(token) for token in tokens] == [43, 43]
