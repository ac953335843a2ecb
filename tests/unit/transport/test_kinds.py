"""Every kind of job that can be asked for has its converters."""

from typing import get_args, get_type_hints

from undue.v1 import jobs_pb2
from undue_service.domain.specs import JobSpec, RequestedJob
from undue_service.transport.kinds import KINDS


def kinds(union) -> set[str]:
    return {spec.__dataclass_fields__["kind"].default for spec in get_args(union)}


def test_each_requested_kind_has_its_converters():
    assert KINDS.keys() == kinds(RequestedJob)


def test_every_kind_has_its_name_in_the_api():
    assert {field.name for field in jobs_pb2.Job.DESCRIPTOR.oneofs_by_name["spec"].fields} == kinds(JobSpec)


def test_converters_are_of_the_kind_that_they_stand_under():
    by_kind = {spec.__dataclass_fields__["kind"].default: spec for spec in get_args(RequestedJob)}
    for name, kind in KINDS.items():
        message = type(getattr(jobs_pb2.Job(), name))
        assert list(get_type_hints(kind.read).values()) == [message, by_kind[name]]
        assert list(get_type_hints(kind.write).values()) == [by_kind[name], message]
