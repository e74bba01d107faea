"""What the actor runtime costs: CPU µs a message, and the ratio to a bare memory channel in the same run.

    python -m bench.runtime [--json]

Each figure is the best of five rounds. The mailbox holds 1,024; `take_queued` takes 256 at a time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import process_time
from typing import Final

import trio

from chatty.actors.runtime import ActorRef, ActorSpec, Ask, Mailbox, open_supervisor

ROUND_COUNT: Final = 5
MESSAGE_COUNT: Final = 1_024
ASK_COUNT: Final = 2_000


@dataclass(eq=False)
class Double(Ask[int]):
    number: int


async def one_by_one(mailbox: Mailbox[int]) -> None:
    mailbox.ready()
    async for _ in mailbox:
        pass


async def in_batches(mailbox: Mailbox[int]) -> None:
    mailbox.ready()
    async for _ in mailbox:
        mailbox.take_queued(255)


async def doubling(mailbox: Mailbox[Double]) -> None:
    mailbox.ready()
    async for request in mailbox:
        request.answer(2 * request.number)


async def bare_channel() -> tuple[float, float]:
    send, receive = trio.open_memory_channel[int](MESSAGE_COUNT)
    async with send, receive:
        began_s = process_time()
        for number in range(MESSAGE_COUNT):
            send.send_nowait(number)
        told_s = process_time()
        for _ in range(MESSAGE_COUNT):
            await receive.receive()
        return told_s - began_s, process_time() - told_s


async def actor(run: Callable[[Mailbox[int]], Awaitable[None]]) -> tuple[float, float]:
    """Seconds to tell, and to handle and drain, MESSAGE_COUNT messages."""
    async with open_supervisor("bench") as root:
        ref = await root.start(ActorSpec(name="counted", run=run, mailbox_count_max=MESSAGE_COUNT))
        began_s = process_time()
        for number in range(MESSAGE_COUNT):
            ref.tell(number)
        told_s = process_time()
    return told_s - began_s, process_time() - told_s


async def asks() -> float:
    async with open_supervisor("bench") as root:
        ref: ActorRef[Double] = await root.start(ActorSpec(name="doubling", run=doubling, mailbox_count_max=16))
        began_s = process_time()
        for number in range(ASK_COUNT):
            await ref.ask(Double(number), timeout_s=5)
        return process_time() - began_s


async def measure() -> dict[str, float]:
    bare, single, batched, asked = [], [], [], []
    for _ in range(ROUND_COUNT):
        bare.append(await bare_channel())
        single.append(await actor(one_by_one))
        batched.append(await actor(in_batches))
        asked.append(await asks())
    each = 1e6 / MESSAGE_COUNT
    return {
        "bare_send_us": min(told for told, _ in bare) * each,
        "tell_us": min(told for told, _ in single) * each,
        "bare_receive_us": min(handled for _, handled in bare) * each,
        "handle_us": min(handled for _, handled in single) * each,
        "take_queued_us": min(handled for _, handled in batched) * each,
        "ask_us": min(asked) * 1e6 / ASK_COUNT,
    }


def main() -> None:
    figures = trio.run(measure)
    if "--json" in sys.argv:
        print(json.dumps({name: round(us, 3) for name, us in figures.items()}))
        return
    for name, us in figures.items():
        bare_us = figures["bare_send_us" if name in ("bare_send_us", "tell_us") else "bare_receive_us"]
        print(f"{name:16} {us:8.2f} µs   ×{us / bare_us:.2f}")


if __name__ == "__main__":
    main()
