"""A drawn case mixed with a whole request, so that more than the outer checks of a route is reached."""

from typing import Any, Literal, NamedTuple, get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect
from schemathesis import Case

from chatty.wire.signing import Signable
from tests.server.places import at, choices, places, put
from tests.server.scenes import Scene, struct_info
from tests.server.whole_requests import WholeRequest
from tests.server.wire_people import WireDevice

AnyCase = Case[Any]
Mix = Literal["as drawn", "drawn body", "one part drawn", "one part chosen", "whole"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_SIGNABLE: tuple[Any, ...] = get_args(Signable)


class Drawn(NamedTuple):
    """at: which part of a whole body another one takes the place of: the case's, or value where the case has none."""

    case: AnyCase
    mix: Mix
    at: int
    value: Any


def drawn(cases: st.SearchStrategy[AnyCase]) -> st.SearchStrategy[Drawn]:
    return st.builds(Drawn, cases, st.sampled_from(get_args(Mix)), st.integers(0, 2**16), ANYTHING)


def mixed(one: Drawn, whole: WholeRequest, scene: Scene) -> AnyCase:
    """What ann asks; not for a case as drawn."""
    case = one.case
    options: dict[str, Any] = {}
    if whole.route.body is not None:
        options = {
            "body": _body(one, struct_info(whole.route.body), whole.body, scene),
            "media_type": "application/json",
        }
    made: AnyCase = case.operation.Case(
        path_parameters=dict(whole.path_parameters),
        headers=dict(whole.headers),
        query={} if one.mix == "whole" else case.query,
        **options,
    )
    return made


def _body(one: Drawn, info: inspect.StructType, whole: Any, scene: Scene) -> Any:
    known = scene.known
    parts = list(places(info, whole, known))
    if one.mix == "drawn body":
        return one.case.body
    if one.mix == "whole" or not parts:
        return whole
    part = parts[one.at % len(parts)]
    try:
        other = at(one.case.body, part.path)
    except LookupError:
        other = one.value
    if one.mix == "one part chosen":
        others = choices(part.info, scene.others) or [other]
        other = others[one.at // len(parts) % len(others)]
    return _signed_anew(put(info, whole, part.path, other, known), scene.ann)


def _signed_anew(value: Any, signer: WireDevice) -> Any:
    """Every signed object in it under a signature that fits, as far as it is still one."""
    match value:
        case {"signed": dict() as signed, "signature": str()}:
            signed = _signed_anew(signed, signer)
            return {**value, "signed": signed, "signature": _signature(signed, signer) or value["signature"]}
        case dict():
            return {key: _signed_anew(item, signer) for key, item in value.items()}
        case list():
            return [_signed_anew(item, signer) for item in value]
        case _:
            return value


def _signature(signed: Any, signer: WireDevice) -> str:
    for kind in _SIGNABLE:
        try:
            signable: Signable = msgspec.convert(signed, kind)
        except msgspec.ValidationError:
            continue
        return signer.sign(signable)
    return ""
