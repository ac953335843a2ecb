import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from undue_service.domain.errors import ERRORS_BY_CODE, InvalidArgument, Reason
from undue_service.domain.jobs import Failure
from undue_service.transport.errors import STATUS_CODES, failure_to_status, to_status, to_trailer


@pytest.mark.parametrize("code", sorted(ERRORS_BY_CODE))
def test_every_error_has_one_error_info_and_its_canonical_code(code):
    error = ERRORS_BY_CODE[code](Reason.INTERNAL, "text", metadata={"k": "v"})
    status = to_status(error, "request-1")
    assert status.code == code_pb2.Code.Value(code) == STATUS_CODES[code].value[0]
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    info = error_details_pb2.ErrorInfo()
    assert len(infos) == 1
    infos[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("INTERNAL", "undue", {"k": "v"})


def test_a_wrong_field_is_named():
    status = to_status(InvalidArgument.at("model.objective.l2", "must not be negative"))
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert bad.field_violations[0].field == "model.objective.l2"


def test_a_kept_failure_is_the_same_status():
    error = InvalidArgument(Reason.MODEL_MALFORMED, "truncated", metadata={"at": "12"})
    assert failure_to_status(Failure.of(error)) == to_status(error)


@pytest.mark.parametrize("text", ["x" * 100_000, "λ" * 100_000])
def test_long_texts_still_fit_into_trailers(text):
    error = InvalidArgument(Reason.INVALID_NAME, text, metadata={text + str(i): text for i in range(50)})
    error.violations = InvalidArgument.at(text, text).violations * 20
    message, details = to_trailer(error, "request-1")
    # gRPC sends the message percent-encoded, three bytes for each that is not ASCII, beside the status.
    assert 3 * len(message.encode()) + len(details) < 15_000
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "INVALID_NAME"
