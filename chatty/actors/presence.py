"""Who is there, on this node: kept beside the actors, told by an actor of its own once an interval.

A connection names whom it watches; it is told of nobody else, once at the beginning and then when something changed, at most once
an interval for each user. Who sees whom is decided by memory alone: the rooms in which both have a live socket, what the watched
user shows and whom that user has blocked. So neither watching nor telling asks the store anything.

*Bound*: presence_users_max a connection; what is told is bounded by who watches. *Another node's* users are offline here.
"""

from collections.abc import Callable, Collection

import trio

from chatty.actors.directory import Directory, Listener
from chatty.actors.outbox import SharedNotice
from chatty.ids import UserId
from chatty.services.presence import check_watch, coarse_ms, presence_of, shown
from chatty.telemetry import Metrics
from chatty.wire.presence import Presence, State

tellings_between_checkpoints = 200


class PresenceBook:
    """One for a node. clock_s: s since 1970. is_on: the server's own switch."""

    def __init__(
        self,
        directory: Directory,
        metrics: Metrics,
        *,
        clock_s: Callable[[], float],
        idle_after_s: float,
        is_on: bool,
    ) -> None:
        self._directory = directory
        self._metrics = metrics
        self._clock_s = clock_s
        self._idle_after_s = idle_after_s
        self._is_on = is_on
        self._watchers: dict[UserId, dict[Listener, State | None]] = {}  # with what each was told last
        self._watched: dict[Listener, frozenset[UserId]] = {}
        self._states: dict[UserId, State] = {}  # of the watched, at the last look
        self._left_at: dict[UserId, float] = {}  # of the watched whose last socket went since
        self._changed: dict[UserId, None] = {}  # whose visibility may be another

    # What sessions do; none of it waits -------------------------------------------------------------------------------

    def watch(self, session: Listener, users: Collection[UserId]) -> list[Presence]:
        """From now on exactly these. Returns: what is to be told of each now. Raises: PresenceOff, QuotaExceeded."""
        wanted = check_watch(users, is_on=self._is_on)
        self.unwatch(session)
        self._watched[session] = wanted
        self._metrics.presence_watches.inc(len(wanted))
        return [self._begin(session, user) for user in sorted(wanted)]

    def _begin(self, session: Listener, user: UserId) -> Presence:
        told = shown(self._presence(user), is_visible=self._sees(session, user), before=None)
        assert told is not None, "who was told nothing yet is told something"
        self._watchers.setdefault(user, {})[session] = told.state
        return told

    def unwatch(self, session: Listener) -> None:
        users = self._watched.pop(session, frozenset())
        for user in users:
            of_user = self._watchers[user]
            del of_user[session]
            if not of_user:
                del self._watchers[user]
                self._states.pop(user, None)
                self._left_at.pop(user, None)
                self._changed.pop(user, None)
        self._metrics.presence_watches.dec(len(users))

    def retell(self, session: Listener) -> None:
        """What it was told got lost, or it sees other people now."""
        for user in self._watched.get(session, ()):
            self._watchers[user][session] = None
            self._changed[user] = None

    def touch(self, user: UserId) -> None:
        """Others may see this user now, or may not any more."""
        if user in self._watchers:
            self._changed[user] = None

    def leave(self, session: Listener) -> None:
        """Its socket has gone."""
        self.unwatch(session)
        if session.caller.user in self._watchers:
            self._left_at[session.caller.user] = session.notices.activity.at_s

    # Telling ---------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Tell whatever changed since the last look."""
        changed, self._changed = self._changed, {}
        count = 0
        for user in list(self._watchers):
            presence = self._presence(user)
            if user not in changed and self._states.get(user) == presence.state:
                continue
            self._states[user] = presence.state
            for session in list(self._watchers.get(user, ())):
                self._tell(user, session, presence)
                count += 1
                if count % tellings_between_checkpoints == 0:
                    await trio.lowlevel.checkpoint()
            self._left_at.pop(user, None)

    def _presence(self, user: UserId) -> Presence:
        sockets = self._directory.named(user)
        if not sockets and user in self._left_at:
            return Presence(user=user, state="offline", last_active=coarse_ms(self._left_at[user]))
        activities = [session.notices.activity for session in sockets]
        return presence_of(user, activities, now_s=self._clock_s(), idle_after_s=self._idle_after_s)

    def _tell(self, user: UserId, watcher: Listener, presence: Presence) -> None:
        """A watcher that has gone meanwhile, or lags, is passed over: it watches anew, or is told when it reads again."""
        of_user = self._watchers.get(user, {})
        if watcher not in of_user or watcher.is_lagging:
            return
        event = shown(presence, is_visible=self._sees(watcher, user), before=of_user[watcher])
        if event is not None:
            of_user[watcher] = event.state
            watcher.notices.offer(("presence", user), SharedNotice(event))

    def _sees(self, watcher: Listener, user: UserId) -> bool:
        return any(
            socket.notices.shown.presence
            and watcher.caller.user_number not in socket.notices.shown.hidden_from
            and not watcher.rooms.keys().isdisjoint(socket.rooms.keys())
            for socket in self._directory.named(user)
        )
