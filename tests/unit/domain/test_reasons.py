from undue.v1 import errors_pb2
from undue_service.domain.errors import Reason


def test_the_api_and_the_domain_know_the_same_reasons():
    names = [value.name for value in errors_pb2.ErrorReason.DESCRIPTOR.values]
    assert {name.removeprefix("ERROR_REASON_") for name in names} - {"UNSPECIFIED"} == {
        reason.value for reason in Reason
    }
