"""What a message leaves behind in the journal: nothing."""

import gc
import weakref

import trio

from chatty.actors.journal import Append, Entry
from chatty.actors.runtime import ActorRef, ActorSpec, ActorStopped, Mailbox, open_supervisor
from chatty.ids import DeviceId, DeviceNumber, FamilyId, RoomId, RoomNumber, SendNumber, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.messages import Draft
from chatty.services.timeline import NewEvent
from chatty.wire.events import Kind


def make_append() -> Append:
    caller = Caller(
        user=UserId("@ann:example.org"),
        user_number=UserNumber(1),
        device=DeviceId("DEVICE01"),
        device_number=DeviceNumber(1),
        family=FamilyId("family"),
        role="user",
        thumbprint="T" * 43,
        step_up_age_s=0.0,
        expires_at_s=2e9,
    )
    draft = Draft(
        caller=caller,
        room=RoomId("!room"),
        room_number=RoomNumber(1),
        n=SendNumber(1),
        low=SendNumber(1),
        digest=b"digest",
        new=NewEvent(kind=Kind.MESSAGE, body=b"body"),
    )
    return Append(draft, trio.current_time() + 60)


async def idle(mailbox: Mailbox[object]) -> None:
    mailbox.ready()
    async for _ in mailbox:
        pass


async def start_room() -> ActorRef[object]:
    """A ref as a room has one; its actor has stopped."""
    async with open_supervisor("root") as root:
        return await root.start(ActorSpec(name="room", run=idle, mailbox_count_max=1))


async def test_a_message_is_gone_when_it_was_handled_without_waiting_for_the_collector() -> None:
    entry = Entry(await start_room(), make_append())
    append = weakref.ref(entry.append)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        del entry
        assert append() is None
    finally:
        if was_enabled:
            gc.enable()


async def test_whoever_asked_for_an_append_is_told_when_its_entry_is_refused() -> None:
    append = make_append()
    told: list[object] = []
    append.on_answer = told.append
    Entry(await start_room(), append).refuse(ActorStopped("journal"))
    assert [type(one) for one in told] == [ActorStopped]


async def test_an_answer_that_was_given_stays_when_the_entry_is_refused_later() -> None:
    append = make_append()
    told: list[object] = []
    append.on_answer = told.append
    append.refuse(RuntimeError("first"))
    Entry(await start_room(), append).refuse(RuntimeError("second"))
    assert [str(one) for one in told] == ["first"]
