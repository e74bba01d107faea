"""What ciphertexts take, added up by user or by room; `chatty-admin users storage` and `chatty-admin rooms storage`.

The server is asked for one stretch of rooms after another, each a short question, so nobody waits for a long one. Interrupted:
nothing was changed, and nothing is printed but the progress, on stderr.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from chatty.admin import render
from chatty.admin.acts import ask_or_do
from chatty.admin.options import Place

By = Literal["user", "room"]


def print_storage(place: Place, by: By, *, count_max: int, as_json: bool) -> None:
    stored_bytes: Counter[str] = Counter()
    messages_count: Counter[str] = Counter()
    for row in _rows(place):
        stored_bytes[row[by]] += row["stored_bytes"]
        messages_count[row[by]] += row["messages_count"]
    largest = [
        {by: name, "messages_count": messages_count[name], "stored_bytes": size}
        for name, size in sorted(stored_bytes.items(), key=lambda one: (-one[1], one[0]))[:count_max]
    ]
    answer = {
        f"{by}s": largest,
        f"{by}s_count": len(stored_bytes),
        "messages_count": messages_count.total(),
        "stored_bytes": stored_bytes.total(),
    }
    if as_json:
        render.print_json(answer)
    else:
        render.print_rows(largest)
        render.print_facts({name: value for name, value in answer.items() if name != f"{by}s"})


def _rows(place: Place) -> Iterator[dict[str, Any]]:
    with render.progress("rooms") as advance:
        after, seen_count = 0, 0
        while True:
            page = ask_or_do(place, "storage", {"after": after})
            seen_count += len({row["room"] for row in page["stored"]})
            advance(seen_count, seen_count + page["rooms_left_count"])
            yield from page["stored"]
            after = page["next_after"]
            if not after:
                return
