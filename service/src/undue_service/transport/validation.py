"""The rules that proto/ states of every request (buf.validate), applied by the interceptor before a servicer sees it.

What they cannot state (a name that exists, a row within its data set) is checked where it is known.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from undue_service.domain.errors import FieldViolation, InvalidArgument, Reason

_validator = Validator()

MAX_VIOLATIONS = 20
"""As many are told; the first says enough of a request that breaks more."""


def check(request: Message) -> None:
    """Hold a request against the rules of its message.

    Raises:
        InvalidArgument: every field that breaks a rule, by its path; the reason is that of the first.
    """
    found = _validator.collect_violations(request)
    if not found:
        return
    violations = tuple(_violation(one) for one in found[:MAX_VIOLATIONS])
    text = "; ".join(f"{one.field}: {one.description}" for one in violations)
    raise InvalidArgument(violations[0].reason, text, violations=violations)


def _violation(violation: Violation) -> FieldViolation:
    rule = violation.proto.rule_id
    # A rule of ours may be called after the reason that its violation has.
    reason = Reason(rule) if rule in Reason.__members__ else Reason.INVALID_FIELD
    description = "is required" if rule == "required" else violation.proto.message
    value = violation.field_value
    if isinstance(value, (str, int, float)) and rule != "required":
        description = f"{str(value)[:80]!r} {description}"
    return FieldViolation(_path(violation) or "request", description, reason)


def _path(violation: Violation) -> str:
    return ".".join(_elements(violation))


def _elements(violation: Violation) -> Iterator[str]:
    if violation.proto.field is None:
        return
    element: Any
    for element in violation.proto.field.elements:
        place = element.subscript
        yield element.field_name + (f"[{place.value}]" if place is not None else "")
