"""All routes of the application, and the one that must ask an actor."""

from collections.abc import Callable
from typing import Any

import trio

import chatty
from chatty.actors.console import ConsoleSources
from chatty.actors.faults import domain_error
from chatty.actors.journal import Append
from chatty.actors.rooms import RoomActors
from chatty.actors.runtime import (
    ActorError,
)
from chatty.app.database import Store
from chatty.app.steps import Steps, key_derivations
from chatty.config import Settings
from chatty.services.limits import Limits, asker_of
from chatty.services.messages import Draft
from chatty.services.quotas import Quotas
from chatty.web import (
    accounts,
    audit,
    blocks,
    console,
    deletions,
    devices,
    exports,
    health,
    keys,
    mailbox,
    passwords,
    preferences,
    registration,
    room_directory,
    room_links,
    rooms,
    second_factors,
    server,
    sessions,
    undecryptables,
    users,
)
from chatty.web import limits as web_limits
from chatty.web.asyncapi import asyncapi_route
from chatty.web.openapi import openapi_route
from chatty.web.routes import Route
from chatty.wire.accounts import ServerInfo
from chatty.wire.events import Committed


def make_routes(
    settings: Settings,
    store: Store,
    steps: Steps,
    limits: Limits,
    checks: health.Health,
    append: Callable[[Draft], Any],
    console_sources: ConsoleSources | None = None,
) -> list[Route]:
    """append: of a message over HTTP. console_sources: what the operator's console asks; None: there is no console."""
    info = ServerInfo(
        server_name=settings.server_name,
        origin=settings.public_origin,
        rp_id=settings.relying_party_id,
        version=chatty.__version__,
        generation=store.identity.generation,
        registration=settings.registration_mode,
        key_derivation=key_derivations(settings),
    )
    routes = [
        *accounts.routes(steps.accounts),
        *passwords.routes(steps.passwords),
        *blocks.routes(steps.blocks),
        *preferences.routes(steps.preferences),
        *exports.routes(steps.exports),
        *deletions.routes(steps.deletions),
        *sessions.routes(steps.sessions, steps.tokens),
        *second_factors.routes(steps.second_factors),
        *devices.routes(steps.devices),
        *keys.routes(steps.keys),
        *mailbox.routes(steps.mailbox),
        *rooms.routes(steps.rooms, steps.streams, steps.checkpoints, append),
        *room_links.routes(steps.rooms),
        *room_directory.routes(steps.rooms, steps.directory),
        *undecryptables.routes(checks.metrics),
        *users.routes(steps.users),
        *registration.routes(steps.registration),
        *audit.routes(steps.audit),
        *(console.routes(console_sources, steps.policy) if console_sources is not None else []),
        *web_limits.routes(steps.users, limits),
        *server.routes(info, store.keys.jwks),
        *health.routes(checks),
        asyncapi_route(version=chatty.__version__, origin=settings.public_origin),
    ]
    return [*routes, openapi_route(routes, version=chatty.__version__)]


async def append_over_http(
    room_actors: RoomActors, limits: Limits, quotas: Quotas, draft: Draft, *, timeout_s: float
) -> Committed:
    """Over HTTP: ask the room, wait for the commit."""
    quotas.check_message(draft.caller.role, size_bytes=len(draft.new.body))
    limits.take("sends_device", draft.caller.device, asker_of(draft.caller, "messages"))
    try:
        ref = await room_actors.get(draft.room_number)
        return await ref.ask(Append(draft, trio.current_time() + timeout_s), timeout_s=timeout_s)
    except ActorError as error:
        raise domain_error(error) from error
