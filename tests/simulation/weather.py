"""What befalls the store and the actors: it waits, fails, loses answers, is gone for a while; and whoever asked may crash."""

from collections.abc import Callable

import trio

from chatty.errors import OutcomeUnknown, StoreUnavailable
from chatty.services.crash_points import CrashPoints
from chatty.testing.transactions import Moment, Weather
from tests.simulation.chance import Chance

statements_at_once_max = 5_000


class MadeCrash(Exception):
    """An error that no code of ours expects."""


class Storm(Weather):
    def __init__(self, chance: Chance, *, on_spin: Callable[[], None]) -> None:
        self._on_spin = on_spin
        self._chance = chance
        self._faults = chance.faults
        self.is_out = False
        self._instant, self._count = -1.0, 0

    async def reach(self, moment: Moment) -> None:
        await trio.lowlevel.checkpoint()
        self._note_instant()
        if (delay_s := self._chance.seconds(self._faults.statement_s_max)) > 0:
            await trio.sleep(delay_s)
        if self.is_out:
            await trio.sleep(self._chance.seconds(0.1))
            raise _lost(moment)
        match moment:
            case "statement":
                self._fail(self._faults.statement_fails, moment)
            case "commit":
                self._fail(self._faults.commit_fails, moment)
            case "committed":
                self._fail(self._faults.answer_lost, moment)
        if self._chance.happens(self._faults.statement_crashes):
            raise MadeCrash

    def _note_instant(self) -> None:
        """Who asks again and again without waiting would hold up a simulated clock for ever."""
        now = trio.current_time()
        self._count = self._count + 1 if now == self._instant else 0
        self._instant = now
        if self._count > statements_at_once_max:
            self._on_spin()

    def _fail(self, probability: float, moment: Moment) -> None:
        if self._chance.happens(probability):
            raise _lost(moment)


def _lost(moment: Moment) -> StoreUnavailable | OutcomeUnknown:
    if moment == "statement":
        return StoreUnavailable("made to fail")
    return OutcomeUnknown("made to fail")


class Crashes(CrashPoints):
    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    async def reach(self, point: str, subject: object = None) -> None:
        if self._chance.happens(self._chance.faults.actor_crashes):
            raise MadeCrash
