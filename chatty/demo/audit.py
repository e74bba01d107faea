"""The end of the demo: every secret of the devices is looked for in everything that the server kept.

Each place has a control, something that must be there (a ciphertext, an address): only if the very same search finds it does
finding nothing else mean anything. With a running server that is not ours, what cannot be reached is listed as not searched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from chatty.demo.needles import Needle, Secret, make_needles
from chatty.demo.report import Hit, NotSearched, PlaceSearched, Search
from chatty.demo.search import Found, Searched, list_files, search
from chatty.demo.stage import Stage

never_searched = NotSearched(place="memory and network", reason="the demo reads files")
_beyond_reach = "the server is not ours: the demo has no access to it"


@dataclass(frozen=True, kw_only=True)
class Place:
    """files: asked for when the search comes to it."""

    name: str
    files: Callable[[], Sequence[Path]]
    control: Secret


async def audit(stage: Stage, secrets: Sequence[Secret], *, ciphertext: bytes, stores: Sequence[Path]) -> Search:
    """Secrets with one value are looked for once. ciphertext: a message's body, as the database gave it.

    Raises: DemoFailed, OSError. Cancelled: the search goes on in its thread until the files are gone; its result is dropped.
    """
    places, not_searched = await _places(stage, ciphertext=ciphertext, stores=stores)
    distinct = {secret.value: secret for secret in reversed(secrets)}
    needles = [needle for secret in reversed(distinct.values()) for needle in make_needles(secret)]
    searched: list[PlaceSearched] = []
    hits: list[Hit] = []
    for place in places:
        work = partial(_search_place, place, needles)
        found = await trio.to_thread.run_sync(work, abandon_on_cancel=True)
        wrong = [_hit(one, place) for one in found.found if one.needle.secret is not place.control]
        hits += wrong
        searched.append(_summary(place, found, found_count=len(wrong)))
    return Search(
        secrets=[secret.name for secret in reversed(distinct.values())],
        forms=sorted({needle.form for needle in needles}),
        needle_count=len(needles),
        places=searched,
        not_searched=[*not_searched, never_searched],
        found=hits,
    )


def _search_place(place: Place, needles: Sequence[Needle]) -> Searched:
    return search(place.name, place.files(), [*needles, *make_needles(place.control)])


def _summary(place: Place, found: Searched, *, found_count: int) -> PlaceSearched:
    return PlaceSearched(
        place=place.name,
        file_count=found.file_count,
        byte_count=found.byte_count,
        found_count=found_count,
        control=place.control.name,
        is_control_found=any(one.needle.secret is place.control for one in found.found),
    )


def _hit(found: Found, place: Place) -> Hit:
    needle = found.needle
    return Hit(secret=needle.secret.name, form=needle.form, place=place.name, file=str(found.file), offset=found.offset)


async def _places(stage: Stage, *, ciphertext: bytes, stores: Sequence[Path]) -> tuple[list[Place], list[NotSearched]]:
    places: list[Place] = []
    not_searched: list[NotSearched] = []
    storage = stage.storage
    if storage is not None:
        await storage.checkpoint()
        dump, directories = await storage.dump(), storage.data_directories
        control = Secret(name="a message's ciphertext", value=ciphertext)
        files = [lambda: [dump], lambda: [file for one in directories for file in list_files(one)]]
        places.append(Place(name="database dump", files=files[0], control=control))
        places.append(Place(name="data directory, WAL included", files=files[1], control=control))
        address = Secret(name="the server's address", value=stage.origin)
        places.append(Place(name="server's logs, all levels", files=lambda: [storage.log], control=address))
    else:
        unreachable = ("database dump", "data directory", "server's logs")
        not_searched += [NotSearched(place=name, reason=_beyond_reach) for name in unreachable]
    metrics = await stage.metrics()
    if metrics is None:
        not_searched.append(NotSearched(place="metrics", reason="the server does not show them"))
    else:
        page = stage.scratch / "metrics.txt"
        page.write_bytes(metrics)
        metric = Secret(name="a metric's name", value="chatty_http_requests_total")
        places.append(Place(name="server's metrics", files=lambda: [page], control=metric))
    header = Secret(name="SQLite's heading", value="SQLite format 3")
    places.append(Place(name="devices' own stores (sealed)", files=lambda: list(stores), control=header))
    return places, not_searched
