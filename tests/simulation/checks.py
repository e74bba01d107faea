"""What must be true when all has calmed down, said from the committed timelines alone: not by the code that is checked."""

from collections import Counter
from collections.abc import Iterator, Sequence

from chatty.ids import RoomId, Seq, UserId
from chatty.services.timeline import Appended
from chatty.wire import chain
from chatty.wire.events import REMOVALS, Committed, Kind, action_of, decode_content
from chatty.wire.frames import Gap
from tests.simulation.client import Client
from tests.simulation.requests import mid_of
from tests.simulation.world import World


def timeline(world: World, room: RoomId) -> list[Appended]:
    number = world.place.rooms[room]
    return [world.store.tables.timeline[number, Seq(seq)] for seq in range(1, world.store.tables.rooms[number].seq + 1)]


def stretches(events: Sequence[Appended], user: UserId) -> list[tuple[int, int]]:
    """In which a user was inside, by the member events: the joining and the leaving event belong to it."""
    found: list[tuple[int, int]] = []
    joined_at = 0
    for one in events:
        if one.event.kind is Kind.MEMBER and one.event.target == user:
            is_removal = action_of(decode_content(one.event)) in REMOVALS
            if is_removal and joined_at:
                found.append((joined_at, one.event.seq))
                joined_at = 0
            elif not is_removal and not joined_at:
                joined_at = one.event.seq
    return [*found, (joined_at, len(events))] if joined_at else found


def end_of(events: Sequence[Appended], user: UserId) -> int:
    """The last place that the user may ever see; 0: was never inside."""
    return max((last for _, last in stretches(events, user)), default=0)


def visible(world: World, events: Sequence[Appended], user: UserId, *, is_shared: bool) -> list[Appended]:
    inside = {seq for first, last in stretches(events, user) for seq in range(first, last + 1)}
    last = end_of(events, user)
    return [
        one
        for one in events
        if one.event.seq <= last and (is_shared or one.event.kind is not Kind.MESSAGE or one.event.seq in inside)
    ]


def unsettled(world: World, clients: Sequence[Client]) -> list[str]:
    """What is not done yet; empty: all has calmed down."""
    found: list[str] = []
    for client in clients:
        if client.open_tasks_count:
            found.append(f"{client.device} waits for {client.open_tasks_count} outcomes")
        user = client.identity.caller
        if client.user_seq != world.store.tables.users[user.user_number].stream_seq:
            found.append(f"{client.device} has user events up to {client.user_seq}")
        for room, book in client.books.items():
            end = end_of(timeline(world, room), client.user)
            if book.state.cursor != end:
                found.append(f"{client.device} has {world.place.rooms[room]}/{book.state.cursor} of {end}")
    if world.store.tables.mailbox:
        found.append(f"{len(world.store.tables.mailbox)} rows lie in mailboxes")
    return found


def broken(world: World, clients: Sequence[Client]) -> Iterator[str]:
    """The promises that were not kept."""
    for room in world.place.rooms:
        events = timeline(world, room)
        yield from _broken_chain(world, room, events)
        for client in clients:
            yield from _broken_book(world, client, room, events)
    yield from _broken_numbers(world, clients)
    yield from _broken_mail(clients)


def _broken_chain(world: World, room: RoomId, events: Sequence[Appended]) -> Iterator[str]:
    head = chain.empty_head(room)
    for seq, one in enumerate(events, start=1):
        head = chain.next_head(head, chain.leaf(one.event))
        if (one.event.seq, one.head) != (seq, head):
            yield f"I3: {world.place.rooms[room]}/{seq} is {one.event.seq}, or breaks the chain"


def _broken_book(world: World, client: Client, room: RoomId, events: Sequence[Appended]) -> Iterator[str]:
    """I3: all that it may see, in this order; hidden stretches are gaps, and nothing else is."""
    is_shared = world.store.tables.rooms[world.place.rooms[room]].policy.history == "shared"
    entries = client.books[room].entries
    given = [entry for entry in entries if not isinstance(entry, Gap)]
    wanted = [one.event for one in visible(world, events, client.user, is_shared=is_shared)]
    if given != wanted:
        yield f"I3: {client.device} has {[one.seq for one in given]} of {[one.seq for one in wanted]}"
    for gap in entries:
        if isinstance(gap, Gap) and gap.head != events[gap.to_seq - 1].head:
            yield f"I3: a gap of {client.device} up to {gap.to_seq} names another head"


def _broken_numbers(world: World, clients: Sequence[Client]) -> Iterator[str]:
    """I2: a text is committed once if it was acked, never if it was refused."""
    committed = Counter(
        mid_of(one.event.body)
        for room in world.place.rooms
        for one in timeline(world, room)
        if one.event.kind is Kind.MESSAGE and one.event.body is not None
    )
    for client in clients:
        for mid, outcome in client.texts.items():
            count = 1 if isinstance(outcome, Committed) else 0
            if committed[mid] != count:
                yield f"I2: text {mid} of {client.device}, {outcome}, is committed {committed[mid]} times"


def _broken_mail(clients: Sequence[Client]) -> Iterator[str]:
    for sender in clients:
        for n, recipients in sender.parcels.items():
            for client in clients:
                is_wanted, is_there = client.device in recipients, (sender.device, n) in client.mail
                if is_wanted != is_there:
                    yield f"{client.device} has mail {n} of {sender.device}: {is_there}"
