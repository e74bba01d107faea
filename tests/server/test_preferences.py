"""What a user lets others see: kept, told to the own devices, and nobody else's business."""

from chatty.wire.frames import UserEvent
from tests.server.app_fixtures import RunningApp
from tests.server.wire_client import open_live_socket
from tests.server.wire_people import sign_in

PATH = "/v1/account/preferences"
SHOWN = {"shows_presence": True, "shows_receipts": True}
HIDDEN = {"shows_presence": False, "shows_receipts": True}


async def test_everything_is_shown_until_the_user_says_no(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    assert await ann.get(PATH) == SHOWN
    await ann.answer("PUT", PATH, HIDDEN)
    assert [await ann.get(PATH), await bob.get(PATH)] == [HIDDEN, SHOWN]


async def test_a_change_is_told_to_the_own_devices_once(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    phone = await sign_in(ann)
    async with open_live_socket(phone) as phones, open_live_socket(bob) as bobs:
        phones.pending.clear()
        bobs.pending.clear()
        for _ in range(2):
            await ann.answer("PUT", PATH, HIDDEN)
        event = await phones.event(UserEvent)
        assert (event.kind, event.content) == ("settings", {})
        assert not [event for event in await phones.settle() if isinstance(event, UserEvent)]
        assert await bobs.settle() == []


async def test_what_is_missing_or_more_is_refused(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    for body in ({}, {"shows_presence": True}, {**SHOWN, "shows_receipts": "no"}, {**SHOWN, "more": True}):
        assert (await ann.answer("PUT", PATH, body)).status_code == 400
    assert await ann.get(PATH) == SHOWN
