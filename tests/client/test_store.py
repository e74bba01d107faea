"""The client's own store: sealed, atomic, for one process, and the numbers and updates that stand in it."""

import shutil
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatty.client.numbers import SendNumbers, open_max
from chatty.client.reasons import Reason, StoreInUse, WrongStoreKey
from chatty.client.store import LocalStore, store_salt
from chatty.client.update_queue import UpdateQueue
from chatty.client.updates import Message, ServerLied, Update
from chatty.ids import DeviceId, EventId, RoomId, Seq, UserId

KEY = b"k" * 32


def open_store(path: Path, key: bytes = KEY) -> LocalStore:
    return LocalStore(path, key=key)


def test_a_value_comes_back_after_reopening(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    store.put("kind", "name", {"a": 1})
    store.close()
    store = open_store(tmp_path / "s")
    assert store.get("kind", "name", dict[str, int]) == {"a": 1}
    assert store.get("kind", "another", dict[str, int]) is None
    store.close()


def test_nothing_of_it_stands_in_the_file(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    store.put("canary-kind", "canary-name", "canary-value")
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert b"canary" not in (tmp_path / "s").read_bytes()
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0


def test_another_key_does_not_open_it(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    with pytest.raises(WrongStoreKey):
        open_store(tmp_path / "s", b"x" * 32)


def test_a_second_user_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    store.put("kind", "name", 1)
    with pytest.raises(StoreInUse):
        open_store(tmp_path / "s")
    store.close()


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"not a database" * 100)
    with pytest.raises(WrongStoreKey):
        open_store(tmp_path / "s")


def test_a_transaction_is_there_or_not(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")

    def fail() -> None:
        with store.transaction():
            store.put("kind", "a", 1)
            with store.transaction():
                store.put("kind", "b", 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.items("kind", int) == []
    store.close()


def test_items_come_in_the_order_of_their_first_writing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    for name, value in (("a", 1), ("b", 2), ("c", 3), ("a", 4)):
        store.put("kind", name, value)
    assert store.items("kind", int) == [("a", 4), ("b", 2), ("c", 3)]
    assert store.items("kind", int, newest_max=1) == [("c", 3)]
    assert store.first("kind", int) == ("a", 4)
    store.keep_newest("kind", count_max=2)
    assert store.items("kind", int) == [("b", 2), ("c", 3)]
    store.close()


def test_an_altered_value_is_noticed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    store.put("kind", "a", 1)
    store.put("kind", "b", 2)
    store._connection.execute("UPDATE entries SET value = (SELECT value FROM entries LIMIT 1)")
    with pytest.raises(WrongStoreKey):
        store.get("kind", "b", int)
    store.close()


def test_the_salt_of_a_passphrase_stays(tmp_path: Path) -> None:
    assert store_salt(tmp_path / "s") == store_salt(tmp_path / "s")


# n and low


def test_n_is_never_given_twice_even_after_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    numbers = SendNumbers(store, opened=set())
    assert [numbers.take(), numbers.take()] == [1, 2]
    store.close()
    store = open_store(tmp_path / "s")
    assert SendNumbers(store, opened=set()).take() == 3
    store.close()


def test_low_is_the_smallest_open_n(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    numbers = SendNumbers(store, opened=set())
    assert numbers.low == 1
    first, second = numbers.take(), numbers.take()
    numbers.settle(second)
    assert numbers.low == first
    numbers.settle(first)
    assert numbers.low == 3
    store.close()


def test_open_numbers_of_an_earlier_run_hold_low(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    numbers = SendNumbers(store, opened=set())
    for _ in range(5):
        numbers.take()
    assert SendNumbers(store, opened={2, 4}).low == 2
    store.close()


async def test_a_full_window_waits(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    numbers = SendNumbers(store, opened=set())
    with store.transaction():
        first, *_ = [numbers.take() for _ in range(open_max)]
    assert numbers.has_room is False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(numbers.wait_for_room)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        numbers.settle(first)
    assert numbers.take() == open_max + 1
    store.close()


def test_a_rolled_back_store_is_noticed_and_goes_on_above(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    numbers = SendNumbers(store, opened=set())
    numbers.take()
    store.close()
    shutil.copy(tmp_path / "s", tmp_path / "old")
    store = open_store(tmp_path / "s")
    later = SendNumbers(store, opened=set())
    later.take()
    later.take()
    store.close()
    store = open_store(tmp_path / "old")
    numbers = SendNumbers(store, opened=set())
    assert numbers.go_above(highest_n=3, low=2)
    assert numbers.take() == 4
    assert not numbers.go_above(highest_n=4, low=2)
    store.close()


# Updates


def message(seq: int) -> Message:
    return Message(
        room=RoomId("!r"),
        seq=Seq(seq),
        event_id=EventId(f"${seq}"),
        sender=UserId("@a:b"),
        device=DeviceId("D"),
        time_ms=1,
        text=f"text {seq}",
    )


async def test_updates_come_in_order_and_again_until_the_next_is_asked_for(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    updates = UpdateQueue(store)
    put: list[Update] = [message(1), ServerLied(reason=Reason.REPLAYED, detail="x", room=RoomId("!r")), message(2)]
    for update in put:
        updates.put(update)
    assert await updates.next() == put[0]
    store.close()
    store = open_store(tmp_path / "s")
    updates = UpdateQueue(store)
    assert [await updates.next() for _ in put] == put
    assert updates.history(RoomId("!r"), count_max=1) == [message(2)]
    store.close()


async def test_who_asks_too_early_waits(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    updates = UpdateQueue(store)
    got: list[Update] = []

    async def ask() -> None:
        got.append(await updates.next())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        updates.put(message(5))
    assert got == [message(5)]
    store.close()
