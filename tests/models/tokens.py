"""A model of refresh tokens around the product's own rule, chatty/services/tokens.py (docs/protocol.md, Tokens).

One family. Token k's successor is a function of k, so here it is k + 1. Time passes in ticks of half a minute. A request is a
token and its age; requests and answers may be lost or late, and the nonce in the request's DPoP proof lives two ticks: a request
with a stale one is refused before the token is looked at. The honest client has a disk, a memory and two tabs, so its requests
may be concurrent; it gives up waiting at any time and asks again with what is on its disk. A thief may have copied the disk,
with the key or without.

*What must hold:* nobody but a thief gets the family revoked; whenever faults stop, the honest client can go on; and when a
thief with the key has *used* what it stole, the honest client's next refresh does not pass as if nothing had happened.

- A token is *used* also when an access token that came with it is seen: else a thief acts with a token that nobody presents.
- A retired token has 60 s of its own: with less, a slow copy of a request logs the honest client out.
- Proofs live no longer than that, and the token before the newest has no end while the newest was never used.
- The client's disk never goes back to an older token, and a token is on the disk before it is used.
- A wrong key revokes nothing: else a token without its key is a weapon.

Not modelled: restored databases, the bound on rotations, real time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from chatty.errors import RefreshRefused
from chatty.services.tokens import RefreshState, Reuse, grace_ms, note_use, present

from .checker import Model, Step

TICK_MS = 30_000
OLD = 4  # ticks; older makes no difference


@dataclass(frozen=True)
class TokenRules:
    """Every value but the default drops, weakens or replaces a rule."""

    use: Literal["refresh or access token", "refresh"] = "refresh or access token"
    nonce_ticks: int = 2
    has_grace: bool = True
    lost_answer_ticks: int | None = None
    disk_never_goes_back: bool = True
    is_on_disk_first: bool = True
    does_wrong_key_revoke: bool = False


@dataclass(frozen=True)
class TokenWorld:
    tokens: int = 5
    in_flight: int = 3
    thief: Literal["none", "with the key", "without the key"] = "none"


class Asked(NamedTuple):
    token: int
    age: int


class Thief(NamedTuple):
    """holds: the newest token it has. acted_with: the newest that it used and the honest client was never given."""

    holds: int
    acted_with: int = 0


class TokenState(NamedTuple):
    """server: with times relative to now. newest_age: of the newest token, in ticks."""

    server: RefreshState = RefreshState()
    newest_age: int = OLD
    is_revoked: bool = False
    disk: int = 1
    memory: int = 1
    requests: tuple[Asked, ...] = ()
    answers: tuple[int, ...] = ()
    thief: Thief | None = None
    sentence: str = ""


class Tokens(Model[TokenState]):
    def __init__(self, world: TokenWorld, rules: TokenRules) -> None:
        self._world = world
        self._rules = rules

    def initial(self) -> TokenState:
        return TokenState()

    def broken(self, state: TokenState) -> str | None:
        if state.sentence:
            return state.sentence
        if state.is_revoked and state.thief is None:
            return "the honest client is logged out, and nobody else was there"
        return None

    def is_settled(self, state: TokenState) -> bool:
        if state.is_revoked or state.server.k >= self._world.tokens:
            return True
        is_quiet = not state.requests and not state.answers
        return is_quiet and state.disk == state.memory == state.server.k

    def representative(self, state: TokenState) -> TokenState:
        kept = tuple(at for at in state.server.retired_ms if -at <= grace_ms)
        server = RefreshState(k=state.server.k, is_used=state.server.is_used, retired_ms=kept)
        return state._replace(
            server=server, requests=tuple(sorted(state.requests)), answers=tuple(sorted(state.answers))
        )

    def steps(self, state: TokenState) -> Iterator[Step[TokenState]]:
        if state.server.k >= self._world.tokens:
            return
        yield from self._client(state)
        yield from self._server(state)
        yield from self._network(state)
        if state.thief is not None or self._world.thief != "none":
            yield from self._thief(state)
        yield Step("30 s pass", False, _later(state))

    # The honest client -------------------------------------------------------------------------------------------------

    def _held(self, state: TokenState) -> int:
        return state.disk if self._rules.is_on_disk_first else state.memory

    def _client(self, state: TokenState) -> Iterator[Step[TokenState]]:
        held = self._held(state)
        if len(state.requests) + len(state.answers) < self._world.in_flight and not state.is_revoked:
            yield Step(f"client: asks with {held}", False, state._replace(requests=(*state.requests, Asked(held, 0))))
        for index, given in enumerate(state.answers):
            rest = state.answers[:index] + state.answers[index + 1 :]
            newest = max(state.memory, given) if self._rules.disk_never_goes_back else given
            disk = newest if self._rules.is_on_disk_first else state.disk
            yield Step(f"client: gets {given}", False, state._replace(memory=newest, disk=disk, answers=rest))
        if state.memory != state.disk:
            yield Step(f"client: {state.memory} reaches the disk", False, state._replace(disk=state.memory))
            yield Step(f"client: crashes, has {state.disk}", True, state._replace(memory=state.disk))
        used = self._with_use(state, held)
        if used != state:
            yield Step(f"client: uses the access token of {held}", False, used)

    def _with_use(self, state: TokenState, token: int) -> TokenState:
        if self._rules.use == "refresh" or state.is_revoked:
            return state
        return state._replace(server=note_use(state.server, token, now_ms=0))

    # The server and the network ----------------------------------------------------------------------------------------

    def _server(self, state: TokenState) -> Iterator[Step[TokenState]]:
        for index, asked in enumerate(state.requests):
            rest = state._replace(requests=state.requests[:index] + state.requests[index + 1 :])
            if asked.age > self._rules.nonce_ticks:
                yield Step(f"server: {asked.token} with a stale proof: refused", False, rest)
                continue
            after, given = self._presented(rest, asked.token)
            what = f"server: takes {asked.token}, asked {30 * asked.age} s ago"
            if given is None:
                yield Step(f"{what}: {'revoked' if after.is_revoked else 'refused'}", False, after)
            else:
                sentence = self._unnoticed(state, asked.token, given)
                answered = after._replace(answers=(*after.answers, given), sentence=sentence)
                yield Step(f"{what}: answers {given}", False, answered)

    def _presented(self, state: TokenState, token: int) -> tuple[TokenState, int | None]:
        """The product's rule, but for what this run weakens."""
        if state.is_revoked:
            return state, None
        revoked = state._replace(is_revoked=True)
        try:
            server = present(state.server, token, now_ms=0)
        except RefreshRefused:
            return (state, None) if self._rules.has_grace else (revoked, None)
        except Reuse:
            return revoked, None
        limit = self._rules.lost_answer_ticks
        if server == state.server and limit is not None and state.newest_age > limit:
            return revoked, None
        age = state.newest_age if server == state.server else 0
        return state._replace(server=server, newest_age=age), server.k

    @staticmethod
    def _unnoticed(state: TokenState, token: int, given: int) -> str:
        if state.thief is not None and state.thief.acted_with == given > token:
            return f"the thief has used {given}; the honest client presents {token}, gets {given}: no reuse noticed"
        return ""

    def _network(self, state: TokenState) -> Iterator[Step[TokenState]]:
        for index, asked in enumerate(state.requests):
            rest = state.requests[:index] + state.requests[index + 1 :]
            yield Step(f"network: loses the request with {asked.token}", True, state._replace(requests=rest))
        for index, given in enumerate(state.answers):
            kept = state.answers[:index] + state.answers[index + 1 :]
            yield Step(f"network: loses the answer {given}", True, state._replace(answers=kept))

    # The thief -----------------------------------------------------------------------------------------------------------

    def _thief(self, state: TokenState) -> Iterator[Step[TokenState]]:
        thief = state.thief
        if thief is None:
            yield Step(f"thief: copies {state.disk}", True, state._replace(thief=Thief(state.disk)))
        elif state.is_revoked:
            return
        elif self._world.thief == "without the key":
            if self._rules.does_wrong_key_revoke:
                sentence = "a thief without the key logs the honest client out"
                yield Step("thief: presents it with a wrong key", True, state._replace(sentence=sentence))
        else:
            yield from self._thief_with_key(state, thief)

    def _thief_with_key(self, state: TokenState, thief: Thief) -> Iterator[Step[TokenState]]:
        after, given = self._presented(state, thief.holds)
        if given is not None:
            after = after._replace(thief=thief._replace(holds=given))
        yield Step(f"thief: presents {thief.holds}, gets {given}", True, after)
        is_its_own = thief.holds > max(state.memory, state.disk, *state.answers)
        if thief.holds == state.server.k and is_its_own and thief.acted_with != thief.holds:
            used = self._with_use(state, thief.holds)
            acted = used._replace(thief=thief._replace(acted_with=thief.holds))
            yield Step(f"thief: uses the access token of {thief.holds}", True, acted)


def _later(state: TokenState) -> TokenState:
    server = state.server
    aged = RefreshState(k=server.k, is_used=server.is_used, retired_ms=tuple(at - TICK_MS for at in server.retired_ms))
    older: Callable[[int], int] = lambda age: min(OLD, age + 1)  # noqa: E731
    requests = tuple(Asked(one.token, older(one.age)) for one in state.requests)
    return state._replace(server=aged, newest_age=older(state.newest_age), requests=requests)
