"""Requests of Explain whose tensors are none."""

import pytest

from undue.v1 import indexes_pb2, tensors_pb2
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.transport.explaining import questions


@pytest.mark.parametrize("field", ["inputs[x]", "targets"])
@pytest.mark.parametrize("shape", [[2**62, 4, 0], [0, 2**62, 4], [2**40, 2**40, 0], [2**63 - 1, 0]])
def test_an_empty_tensor_of_a_shape_that_no_array_has_is_refused(shape, field):
    odd = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=shape, data=b"")
    even = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=[1, 1], data=bytes(4))
    inputs, targets = ({"x": odd}, None) if field == "inputs[x]" else ({"x": even}, odd)
    with pytest.raises(InvalidArgument, match="larger than any array") as refused:
        questions(indexes_pb2.ExplainRequest(inputs=inputs, targets=targets))
    assert refused.value.reason is Reason.INVALID_FIELD
    assert refused.value.violations[0].field == f"{field}.shape"
