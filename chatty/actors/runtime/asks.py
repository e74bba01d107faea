"""A message that wants an answer.

The answer travels inside the message: whoever holds it last may give it, in this actor or the next one, now or later.
The first answer or refusal wins, further ones are dropped, and so is one whose asker has gone.

Subclasses are `@dataclass(eq=False)`. Theirs is the only `__init__` that runs, so all state has class-level defaults.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

import trio

if TYPE_CHECKING:
    from types import TracebackType

R = TypeVar("R")

_log: Final = logging.getLogger("chatty.actors")


@dataclass(eq=False)
class Ask(Generic[R]):
    """A request for an R. Asked with `ActorRef.ask`, or told with an `on_answer`.

    on_answer: called once, with the answer or the refusal (a crash, too), by whoever gives it; must not wait.
    Pass it or set it before the request is told. What it raises is logged and goes no further: the asker's
    mistake is not the answerer's crash.
    """

    on_answer: Callable[[R | Exception], None] | None = field(default=None, kw_only=True, repr=False)
    _outcome: tuple[R | None, Exception | None] | None = field(default=None, init=False, repr=False)
    _asker: trio.Event | None = field(default=None, init=False, repr=False)

    @property
    def is_answered(self) -> bool:
        """Whether it was answered or refused; an asker who left does not count."""
        return self._outcome is not None

    def answer(self, value: R) -> None:
        """Give the answer. A second one, or one that nobody waits for any more, is dropped."""
        if self._outcome is None:
            self._settle(value, None)

    def refuse(self, error: Exception) -> None:
        """Have `error` raised in the asker. Whoever refuses lives on."""
        if self._outcome is None:
            self._settle(None, error)

    def refusing(self, *errors: type[Exception]) -> AbstractContextManager[None]:
        """A block in which these errors are refusals, not crashes; the block ends there, and its actor lives on."""
        return _Refusing(self, errors)

    def _settle(self, value: R | None, error: Exception | None) -> None:
        self._outcome = (value, error)
        if self._asker is not None:
            self._asker.set()
        if self.on_answer is not None:
            self._call_back(self.on_answer, cast("R", value) if error is None else error)

    def _call_back(self, on_answer: Callable[[R | Exception], None], result: R | Exception) -> None:
        try:
            on_answer(result)
        except Exception as error:
            extra = {"request": type(self).__qualname__, "error": type(error).__qualname__}
            _log.error("ask.callback_failed", extra=extra)

    def expect(self) -> trio.Event:
        """For the runtime: the event that an answer sets. RuntimeError when it was asked or answered before."""
        if self._asker is not None or self._outcome is not None:
            raise RuntimeError(f"{type(self).__qualname__} was asked before; each question is a new object")
        self._asker = trio.Event()
        return self._asker

    def forget_asker(self) -> None:
        """For the runtime: it was never queued, so it may be asked again."""
        self._asker = None

    def result(self) -> R:
        """For the runtime: the answer, or raise the refusal. Only after the event was set."""
        value, error = self._outcome or (None, RuntimeError("not answered yet"))
        if error is not None:
            raise error
        return cast("R", value)


class _Refusing(AbstractContextManager[None]):
    """A class, not a generator: it stands on the hot path, and this costs a third."""

    __slots__ = ("_errors", "_request")

    def __init__(self, request: Ask[R], errors: tuple[type[Exception], ...]) -> None:
        self._request = request
        self._errors = errors

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, self._errors):
            return False
        self._request.refuse(error)
        return True
