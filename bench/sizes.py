"""How much of everything: the counts that measure, and tiny ones that show that everything still works."""

from dataclasses import replace
from typing import Any

from bench.fairness import FairnessSize
from bench.growth import GrowthSize
from bench.identity import IdentitySize
from bench.idle import CrowdSize
from bench.scenarios import Size


def _size(members_count: int, rooms_count: int, messages_count: int, *, senders_count: int, **others: Any) -> Size:
    usual = {"ciphertext_bytes": 256, "window": 64, "rounds_count": 3, "warm_up_count": 400}
    return Size(
        members_count=members_count,
        rooms_count=rooms_count,
        messages_count=messages_count,
        senders_count=senders_count,
        **{**usual, **others},
    )


GROWTH = GrowthSize(
    counts=(100, 1_000, 5_000, 10_000),
    talking_rooms_max=10,
    members_count=10,
    members=(2, 20, 200, 2_000),
    sessions_count=2_000,
    deliveries_per_s=8_000,
    round_s=5.0,
    rounds_count=5,
    idle_s=10.0,
)
SMALL_GROWTH = GrowthSize(
    counts=(4, 8),
    talking_rooms_max=1,
    members_count=4,
    members=(2,),
    sessions_count=4,
    deliveries_per_s=200,
    round_s=0.2,
    rounds_count=1,
    idle_s=0.1,
)


def sizes(rounds_count: int) -> dict[str, Any]:
    """By scenario; what is measured on both paths has one."""
    chat = {
        "echo": _size(1, 1, 10_000, senders_count=1),
        "insert": _size(1, 1, 32_000, senders_count=1),
        "send": _size(1, 1, 200_000, senders_count=1),
        "A": _size(50, 1, 2_000, senders_count=8),
        "B": _size(2, 100, 5_000, senders_count=2),
        "C": _size(50, 1, 1_000, senders_count=8, rate_per_s=100.0),
        "F": _size(2, 1, 10_000, senders_count=2, window=256),
        "slow": _size(49, 1, 1_000, senders_count=8, ciphertext_bytes=16_384, window=8),
    }
    identity = IdentitySize(
        people_count=50, operations_count=1_000, connections_count=8, sockets_count=400, rounds_count=rounds_count
    )
    return {
        **{name: replace(size, rounds_count=rounds_count) for name, size in chat.items()},
        "D": CrowdSize(sessions_count=3_000, members_count=10, hold_s=10.0),
        "E": CrowdSize(sessions_count=5_000, members_count=10, hold_s=0.0),
        "fairness": FairnessSize(
            small=_size(2, 100, 3_000, senders_count=2, rate_per_s=200.0),
            large=_size(2_000, 1, 200, senders_count=8),
        ),
        "sessions": GROWTH,
        "spread": replace(GROWTH, talking_rooms_max=None),
        "rooms": replace(
            GROWTH, talking_rooms_max=None, deliveries_per_s=2_000
        ),  # four times as many would be too much for rooms of two
        "identity": identity,
        "audit": IdentitySize(
            people_count=100, operations_count=2_000, connections_count=16, sockets_count=0, rounds_count=5
        ),
    }


def small_sizes() -> dict[str, Any]:
    tiny = {"window": 8, "rounds_count": 1, "warm_up_count": 10}
    one_room = _size(4, 1, 40, senders_count=2, **tiny)
    pairs = _size(2, 3, 40, senders_count=2, **tiny)
    identity = IdentitySize(people_count=2, operations_count=6, connections_count=2, sockets_count=4, rounds_count=1)
    crowd = CrowdSize(sessions_count=6, members_count=3, hold_s=0.1)
    return {
        **dict.fromkeys(("echo", "insert", "send", "A", "F", "slow"), one_room),
        "B": pairs,
        "C": replace(one_room, rate_per_s=200.0),
        "D": crowd,
        "E": crowd,
        "fairness": FairnessSize(small=replace(pairs, rate_per_s=200.0), large=one_room),
        **dict.fromkeys(("sessions", "spread", "rooms"), SMALL_GROWTH),
        **dict.fromkeys(("identity", "audit"), identity),
    }
