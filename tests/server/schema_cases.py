"""Cases of schemathesis asked over HTTP: drawn from /openapi.json, sent by somebody who is signed in, judged by the document.

A case as drawn is sent by ann's spare device, which it may spoil; others are mixed with whole requests and sent by ann. Faults
are collected, not raised, so that the first one hides no other.

schemathesis is synchronous: all of this runs in a worker thread, beside the server's loop.
"""

from collections import Counter
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import requests
import schemathesis
import trio
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis import APIOperation, BaseSchema, GenerationMode, Response
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.generation.stateful.state_machine import StepInput, StepOutput
from schemathesis.specs.openapi.checks import negative_data_rejection

from chatty.web.routes import Route
from tests.server.app_fixtures import RunningApp
from tests.server.mixing import AnyCase, Drawn, drawn, mixed
from tests.server.scenes import Scene, make_scene
from tests.server.whole_requests import WholeRequest, whole_request
from tests.server.wire_people import HttpRefused, WireDevice

EXCLUDED = [
    "positive_data_acceptance",  # a schema cannot say which signature fits; and 0.0 is an integer to JSON Schema alone
    "ignored_auth",  # does not know DPoP; tests/server/test_tokens.py does
    "allow_header_conformance",  # takes /v1/devices/revoke-others for no {device}, which it is to DELETE
]
_SPOILED = (b'"device_revoked"', b'"message_id_closed"')
Operation = APIOperation[Any, Any, Any, Any]


class SignedIn(requests.auth.AuthBase):
    """A token, and for each request a proof under the newest nonce heard; once more where the server wants another one."""

    def __init__(self, device: WireDevice, *, with_token: bool) -> None:
        self._prover = device.person.prover
        self._token = device.access_token if with_token else ""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.pop("Authorization", None)
        if self._token:
            request.headers["Authorization"] = f"DPoP {self._token}"
        self._prove(request)
        request.register_hook("response", self._hear)
        return request

    def _prove(self, request: requests.PreparedRequest) -> None:
        path = urlsplit(str(request.url)).path
        request.headers["DPoP"] = self._prover.proof(str(request.method), path, access_token=self._token)

    def _hear(self, answer: requests.Response, **options: Any) -> requests.Response:
        self._prover.nonce = answer.headers.get("DPoP-Nonce", "")
        if answer.status_code != 401 or b'"use_dpop_nonce"' not in answer.content:
            return answer
        again = answer.request.copy()
        again.hooks = requests.hooks.default_hooks()
        self._prove(again)
        adapter: HTTPAdapter = answer.connection
        repeated = adapter.send(again, **options)
        repeated.request = again
        return repeated


class Fuzz:
    """All that is asked in one role. answers: how often which status came, by operation. followed: likewise which links."""

    def __init__(self, chat: RunningApp, role: str, document: dict[str, Any], seed: int) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.followed: Counter[str] = Counter()
        self.chains_count = 0
        self.faults: dict[tuple[str, str, str], str] = {}
        self._chat = chat
        self._role = role
        self._seed = seed
        self._routes = {route.operation: route for route in chat.app.routes}
        self._http = requests.Session()
        self._schema: BaseSchema = schemathesis.openapi.from_dict(document)
        self._schema.config.checks.update(excluded_check_names=EXCLUDED)
        # What stands in unknown headers is nobody's business; unknown query parameters: test_injection.py.
        self._schema.config.generation.update(with_security_parameters=False, allow_extra_parameters=False)
        self.set_scene()

    def set_scene(self) -> None:
        """New people and rooms: the last ones may have been ended, or used up."""
        self.scene: Scene = trio.from_thread.run(make_scene, self._chat, self._role)

    @property
    def operations(self) -> list[Operation]:
        return [found.ok() for found in self._schema.get_all_operations() if isinstance(found, Ok)]

    # What is asked ---------------------------------------------------------------------------------------------------

    def begin(self, operation: Operation) -> None:
        """Ask one whole request, among people whom nothing happened to yet."""
        self.set_scene()
        self.ask(Drawn(operation.Case(), "whole", 0, None))

    def draw(self, operation: Operation, count: int) -> None:
        """Ask so many drawn cases of one operation."""

        @hypothesis.seed(self._seed)
        @_settings(count)
        @hypothesis.given(drawn(_cases(operation)))
        def ask(one: Drawn) -> None:
            self.ask(one)

        ask()

    def edges(self, operation: Operation) -> None:
        """Ask every case at an edge of its schema, good and bad, one at a time."""
        generation = self._schema.config.generation
        for case in self._schema.iter_coverage_cases(
            operation, generation_modes=list(GenerationMode), generation_config=generation
        ):
            self.ask(Drawn(case, "as drawn", 0, None))

    def chains(self, count: int, steps_count: int) -> None:
        """Ask so many chains of requests, led by the document's links: what a link names is kept, all else is whole."""
        fuzz = self
        self._schema.config.generation.update(modes=[GenerationMode.POSITIVE])

        class Chain(self._schema.as_state_machine()):  # type: ignore[misc]  # made at run time
            def setup(self) -> None:
                fuzz.chains_count += 1
                fuzz.set_scene()

            def step(self, input: StepInput) -> StepOutput:  # noqa: A002 # its name there
                fuzz.complete(input)
                done: StepOutput = super().step(input)
                return done

            def get_call_kwargs(self, case: AnyCase) -> dict[str, Any]:
                return fuzz.call_options(case, fuzz.scene.ann)

            def validate_response(self, response: Response, case: AnyCase, *_: Any, **__: Any) -> None:
                # The case was drawn valid and then completed, which its metadata does not know.
                fuzz.judge(case, response, recorder=self.recorder, excluded_checks=[negative_data_rejection])

        while (left := count - self.chains_count) > 0:
            settings = hypothesis.settings(_settings(left), stateful_step_count=steps_count)
            # A chain that begins like an earlier one may go on otherwise, for the server remembers; Hypothesis ends there.
            with suppress(hypothesis.errors.Flaky):
                hypothesis.seed(self._seed + left)(Chain).run(settings=settings)

    # How -------------------------------------------------------------------------------------------------------------

    def ask(self, one: Drawn) -> None:
        case, device = one.case, self.scene.spare
        if one.mix != "as drawn":
            whole = self.whole(self.route_of(case), 0 if one.mix == "whole" else one.at)
            case, device = mixed(one, whole, self.scene), self.scene.ann
        self.judge(case, case.call(**self.call_options(case, device)))

    def complete(self, step: StepInput) -> None:
        """Give the step whole headers and a whole body; what it has from a link stays."""
        case, route = step.case, self.route_of(step.case)
        linked = {name for place, name in step.applied_parameters if name and place == "path"}
        whole = self.whole(route, **{name: case.path_parameters[name] for name in linked})
        case.path_parameters = dict(whole.path_parameters)
        case.headers.update(whole.headers)
        if route.body is not None:
            case.body = whole.body
        if step.transition is not None and step.is_applied:
            self.followed[step.transition.id] += 1

    def call_options(self, case: AnyCase, device: WireDevice) -> dict[str, Any]:
        auth = SignedIn(device, with_token=self.route_of(case).permission.needs_caller)
        return {"base_url": self._chat.origin, "session": self._http, "auth": auth}

    def route_of(self, case: AnyCase) -> Route:
        return self._routes[str(case.operation.definition.raw["operationId"])]

    def whole(self, route: Route, variant: int = 0, **path_parameters: Any) -> WholeRequest:
        async def make() -> WholeRequest:
            return await whole_request(route, self.scene, variant=variant, **path_parameters)

        try:
            return trio.from_thread.run(make)
        except HttpRefused:  # what it needs was ended
            self.set_scene()
            return trio.from_thread.run(whole_request, route, self.scene)

    def judge(self, case: AnyCase, answer: Response, **options: Any) -> None:
        label = case.operation.label
        self.answers[label, answer.status_code] += 1
        try:
            case.validate_response(answer, **options)
        except FailureGroup as group:
            for failure in group.exceptions:
                self.faults.setdefault((label, type(failure).__name__, str(failure)[:200]), group.message)
        if any(code in answer.content for code in _SPOILED):
            self.set_scene()


def _settings(count: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def _cases(operation: Operation) -> st.SearchStrategy[AnyCase]:
    good = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not (operation.body or operation.path_parameters or operation.query or operation.headers):
        return good  # there is nothing in which it could be bad
    return good | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
