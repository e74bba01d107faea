"""A room in the store in which messages end, the clock that they end by, and the job that drops them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chatty.crypto.tokens import SigningKey
from chatty.ids import RoomId, RoomNumber, SendNumber, Seq
from chatty.services import expiry
from chatty.services.expiry import Cleaned, MessageCleanup
from chatty.services.messages import Draft
from chatty.services.streams import RoomPage
from chatty.services.timeline import NewEvent, day_ms
from chatty.store.journal import PostgresJournal, open_journal
from chatty.wire import chain
from chatty.wire.events import Committed, Kind, TimelineEvent
from chatty.wire.frames import RoomEntry, Stretch
from tests.quiet_rooms import make_room
from tests.signed_in import SignedIn, World, open_world

KEY = SigningKey(b"h" * 32)
SERVER = "example.org"
START = 20_000 * day_ms + 3_600_000  # one in the morning
# Messages whose ciphertext is gone though neither their expiry, nor a deletion, nor the horizon explains that.
_UNEXPLAINED = """SELECT count(*) FROM timeline t JOIN rooms r USING (room_number)
LEFT JOIN bodies b ON b.room_number = t.room_number AND b.seq = t.seq
LEFT JOIN passing_bodies p ON p.room_number = t.room_number AND p.seq = t.seq
WHERE t.kind = 'message' AND b.body IS NULL AND p.body IS NULL AND t.seq > r.horizon_seq AND t.deletion_seq IS NULL
AND NOT (t.expiry > 0 AND t.expiry <= %s)"""


@dataclass(kw_only=True)
class Scene:
    """A room in which Ann writes, a clock, and the job. done: what it has reported."""

    world: World
    ann: SignedIn
    room: RoomNumber
    database: str
    now_ms: int = START
    retention_days: int = 0
    is_patient: bool = True
    done: list[Cleaned] = field(default_factory=list)

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[PostgresJournal]:
        async with open_journal(
            self.database, clock=lambda: self.now_ms, retention_days=self.retention_days
        ) as journal:
            yield journal

    def draft(self, body: bytes = b"body", *, expiry: int = 0) -> Draft:
        number = self.ann.n()
        new = NewEvent(
            kind=Kind.MESSAGE,
            body=body,
            sender=self.ann.caller.user,
            sender_number=self.ann.caller.user_number,
            device=self.ann.caller.device,
            device_number=self.ann.number,
            n=number["n"],
            session_id="session",
            expiry=expiry,
        )
        return Draft(
            caller=self.ann.caller,
            room=RoomId(f"!{self.room}"),
            room_number=self.room,
            n=number["n"],
            low=SendNumber(max(1, number["n"] - 200)),
            digest=chain.request_digest("send", body + str(number["n"]).encode()),
            new=new,
        )

    async def send(self, *bodies: bytes, expiry: int = 0) -> None:
        async with self.journal() as journal:
            drafts = [self.draft(body, expiry=expiry) for body in bodies]
            answers = (await journal.commit(drafts, waits=True)).answers
            assert all(isinstance(answer, Committed) for answer in answers), answers

    async def clean(self) -> None:
        """As the job does it, with a look after each step; once more when every reader has had its time."""
        job, now_ms = self.job(), self.now_ms
        for _ in range(2):
            while await job.step():
                await self.check_explained()
            await self.check_explained()
            self.now_ms += self.is_patient * (expiry.readers_ms + 1)
        self.now_ms = now_ms

    def job(self) -> MessageCleanup:
        return MessageCleanup(
            units=self.world.units,
            signer=KEY,
            server_name=SERVER,
            retention_days=self.retention_days,
            report=self.done.append,
            clock=lambda: self.now_ms,
        )

    async def page(self, *, after: int = 0, bytes_max: int = 1_000_000) -> RoomPage:
        """As Ann may see it."""
        async with self.world.units.snapshot() as unit:
            page = await unit.streams.page(
                self.room, self.ann.caller.user_number, after=Seq(after), count_max=500, bytes_max=bytes_max
            )
        assert page is not None
        return page

    async def bodies(self) -> list[bytes | None]:
        return [entry.body for entry in (await self.page()).entries if isinstance(entry, TimelineEvent)]

    async def check_explained(self) -> None:
        assert await self.world.value(_UNEXPLAINED, self.now_ms) == 0

    async def check_chain(self) -> None:
        """What is shown folds to the room's head."""
        room_id = await self.world.value("SELECT room_id FROM rooms WHERE room_number = %s", self.room)
        seq, head = 0, chain.empty_head(RoomId(room_id))
        for entry in (await self.page()).entries:
            first, _ = place(entry)
            assert first == seq + 1
            if isinstance(entry, Stretch):
                seq, head = entry.to_seq, entry.head
            else:
                assert isinstance(entry, TimelineEvent)
                seq, head = entry.seq, chain.next_head(head, chain.leaf(entry))
        found = await self.world.value(
            "SELECT (seq, encode(head, 'hex'))::text FROM rooms WHERE room_number = %s", self.room
        )
        assert found == f"({seq},{head.hex()})"

    @property
    def reported(self) -> dict[str, int]:
        """Rows by what."""
        counts: dict[str, int] = {}
        for one in self.done:
            counts[one.what] = counts.get(one.what, 0) + one.freed.rows_count
        return counts


@asynccontextmanager
async def open_scene(database: str) -> AsyncIterator[Scene]:
    async with open_world(database) as world:
        ann = await world.device("ann", "annsphone")
        room = await make_room(world, ann)
        async with world.pool.transaction() as connection:  # inside from the beginning
            await connection.execute(
                "INSERT INTO member_intervals (room_number, user_number, from_seq) VALUES (%s, %s, 1)",
                (room, ann.caller.user_number),
            )
            await connection.execute("UPDATE rooms SET head = %s", (chain.empty_head(RoomId(await room_id(world))),))
        yield Scene(world=world, ann=ann, room=room, database=database)


async def room_id(world: World) -> str:
    return str(await world.value("SELECT room_id FROM rooms"))


def place(entry: RoomEntry) -> tuple[int, int]:
    return (entry.from_seq, entry.to_seq) if isinstance(entry, Stretch) else (entry.seq, entry.seq)
