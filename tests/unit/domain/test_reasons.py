from undue.v1 import errors_pb2
from undue_service.domain.errors import Reason


def test_the_api_and_the_domain_know_the_same_reasons():
    api = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}
    assert api == {reason.value for reason in Reason}
