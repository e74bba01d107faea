"""Commands that go without a server too, and what destroys or changes something: rehearsed, asked about, done, printed."""

import sys
from typing import Any

from chatty.admin import render
from chatty.admin.options import Arguments, Place, confirm
from chatty.admin.socket import NoServerRunning

_told_once = ("invitation", "receipt")  # of a rehearsal they open nothing


def ask_or_do(place: Place, command: str, arguments: Arguments | None = None) -> dict[str, Any]:
    """Of the running server, or in its database when none runs. Whatever was asked is not done a second time here.

    Raises: DatabaseMissing when there is neither; as Place.ask(); as the command.
    """
    try:
        return place.ask(command, arguments)
    except NoServerRunning:
        from chatty.admin import offline  # the whole application: 0.4 s

        return offline.do(place.settings(), command, arguments or {})


def rehearse(place: Place, command: str, arguments: Arguments) -> dict[str, Any]:
    """What an act would answer; it is refused as the act would be, and nothing of it stays."""
    answer = ask_or_do(place, f"rehearse {command}", arguments)
    return {name: value for name, value in answer.items() if name not in _told_once} | {"is_dry_run": True}


def act(place: Place, command: str, arguments: Arguments, *, as_json: bool, is_dry_run: bool = False) -> None:
    """Do it, or rehearse it, and print the answer."""
    answer = rehearse(place, command, arguments) if is_dry_run else ask_or_do(place, command, arguments)
    (render.print_json if as_json else render.print_facts)(answer)


def destroy(
    place: Place,
    command: str,
    arguments: Arguments,
    question: str,
    *,
    as_json: bool,
    yes: bool,
    is_dry_run: bool,
    affecting: str = "",
) -> None:
    """Show on stderr what the act would affect, ask, then do it and print the answer; or rehearse it.

    affecting: another command whose rehearsal shows that. Raises: NotConfirmed, and as the act.
    """
    if not is_dry_run:
        if not yes and sys.stdin.isatty():
            render.print_talk(rehearse(place, affecting or command, arguments))
        confirm(yes, question)
    act(place, command, arguments, as_json=as_json, is_dry_run=is_dry_run)
