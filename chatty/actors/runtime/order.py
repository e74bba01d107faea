"""Asks go only to an earlier branch: then no circle of waiting can exist. Checked on demand, in tests.

A path is the place in the tree in start order: (2, 0) is the first child of the root's third. All actors of a
registry share its path, for their order is chance. An ask is in order when the asked path is smaller.
Trio's tasks inherit the context, so a task of an actor's own nursery asks as that actor.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from chatty.actors.runtime.errors import AskOutOfOrder

Path = tuple[int, ...]

_asking: Final[ContextVar[tuple[str, Path] | None]] = ContextVar("chatty.actors.asking", default=None)


def note_running(name: str, path: Path) -> None:
    """From here on this task, and those it starts, ask as this actor."""
    _asking.set((name, path))


def check_ask(name: str, path: Path) -> None:
    """Raises AskOutOfOrder when the running actor may not ask this one; who is no actor may ask any."""
    asking = _asking.get()
    if asking is not None and not path < asking[1]:
        raise AskOutOfOrder(f"{asking[0]} {asking[1]} asked {name} {path}, which is not in an earlier branch")
