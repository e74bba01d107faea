"""Grouping crashes: by place, bounded, kept while the store is away."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from chatty.app.sentry import sentry_teller
from chatty.errors import BadConfiguration, NotFound, StoreUnavailable
from chatty.services import crashes
from chatty.services.crashes import Crashes, CrashesUnit, CrashGroup, CrashRows, place_of
from chatty.services.units import Transactions


class Rows(CrashRows, CrashesUnit, Transactions[CrashesUnit]):
    """A store that can be away."""

    def __init__(self) -> None:
        self.added: list[CrashGroup] = []
        self.is_away = False

    @property
    def crashes(self) -> CrashRows:
        return self

    async def add(self, groups: Sequence[CrashGroup]) -> None:
        self.added += groups

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[CrashesUnit]:
        if self.is_away:
            raise StoreUnavailable("away")
        yield self

    snapshot = autocommit = begin


class Book:
    def __init__(self) -> None:
        self.rows, self.told, self.now_ms = Rows(), list[CrashGroup](), 1_000

        async def tell(groups: Sequence[CrashGroup]) -> None:
            self.told += groups

        self.crashes = Crashes(units=self.rows, release="1.2", clock_ms=lambda: self.now_ms, tell=tell)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


async def test_one_place_is_one_group_with_its_times_and_count() -> None:
    book = Book()
    for now_ms in (1_000, 2_000, 3_000):
        book.now_ms = now_ms
        assert book.crashes.note(raised(KeyError("secret")), met_in="rooms")
    assert book.crashes.note(raised(ValueError("secret")), met_in="http")
    await book.crashes.flush()
    key, value = sorted(book.rows.added, key=lambda group: group.place.kind)
    assert (key.count, key.first_seen_ms, key.last_seen_ms, key.release) == (3, 1_000, 3_000, "1.2")
    assert (key.place.kind, key.place.function, value.place.kind) == ("KeyError", "raised", "ValueError")
    assert key.place.id != value.place.id
    assert "secret" not in repr(book.rows.added)
    assert book.told == book.rows.added
    await book.crashes.flush()
    assert len(book.rows.added) == 2  # nothing is written twice


async def test_errors_that_say_what_is_wrong_are_no_crashes() -> None:
    book = Book()
    assert not book.crashes.note(raised(NotFound("no such room")), met_in="http")
    assert not book.crashes.note(raised(StoreUnavailable("away")), met_in="rooms")
    await book.crashes.flush()
    assert book.rows.added == []


async def test_while_the_store_is_away_they_are_kept_and_added_up() -> None:
    book = Book()
    book.rows.is_away = True
    book.crashes.note(raised(KeyError()), met_in="rooms")
    with pytest.raises(StoreUnavailable):
        await book.crashes.flush()
    book.now_ms = 5_000
    book.crashes.note(raised(KeyError()), met_in="rooms")
    book.rows.is_away = False
    await book.crashes.flush()
    [group] = book.rows.added
    assert (group.count, group.first_seen_ms, group.last_seen_ms) == (2, 1_000, 5_000)


async def test_beyond_the_bound_places_are_counted_together() -> None:
    book = Book()
    kinds = [type(f"Strange{number}", (Exception,), {}) for number in range(crashes.noted_max + 50)]
    for kind in kinds:
        book.crashes.note(kind("x"), met_in="http")
    await book.crashes.flush()
    assert len(book.rows.added) == crashes.noted_max + 1
    assert sum(group.count for group in book.rows.added) == len(kinds)
    [rest] = [group for group in book.rows.added if group.place.kind == "TooManyPlaces"]
    assert rest.count == 50


def test_the_place_is_the_innermost_of_our_own_code() -> None:
    def call() -> None:
        crashes.joined(None, None)  # type: ignore[arg-type]

    with pytest.raises(AttributeError) as caught:
        call()
    place, frames = place_of(caught.value)
    assert (place.module, place.function) == ("chatty.services.crashes", "joined")
    assert frames[-1] == f"chatty.services.crashes.joined:{place.line}"
    assert len(frames) == 3


@pytest.mark.parametrize(
    "dsn", ["", "key@host/1", "https://host/1", "https://key@host", "https://key@host:notaport/1", "ftp://key@host/1"]
)
def test_a_dsn_that_is_none_is_refused_at_the_start(dsn: str) -> None:
    with pytest.raises(BadConfiguration, match="CHATTY_SENTRY_DSN"):
        sentry_teller(dsn)
