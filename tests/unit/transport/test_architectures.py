"""Architectures into the domain and back, as the store keeps them and as the service lists them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undue.v1 import models_pb2, server_info_pb2
from undue_service.application.ports import PoolStatus
from undue_service.domain.architectures import ARCHITECTURES, ArchitectureChoice
from undue_service.domain.errors import InvalidArgument
from undue_service.domain.specs import ModelSpec, ObjectiveSpec
from undue_service.transport import architectures, requests, responses
from undue_service.transport.validation import check
from undue_service.wire.codec import RESOURCE_SPEC

VALUES = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=256)
    | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20).map(tuple)
)
NAMES = st.text(min_size=1, max_size=256)
CHOICES = st.builds(ArchitectureChoice, NAMES, st.dictionaries(NAMES, VALUES, max_size=8))
SPEC = ModelSpec("safetensors", "ab", ObjectiveSpec("cross_entropy"))


def request(**model):
    objective = models_pb2.Objective(loss=models_pb2.Objective.LOSS_CROSS_ENTROPY)
    sent = models_pb2.Model(upload="ab", objective=objective, **model)
    return models_pb2.CreateModelRequest(model_id="m", model=sent)


def read(message):
    return requests.model_spec(message, lambda field, upload: upload)


@given(CHOICES)
def test_there_and_back(choice) -> None:
    message = request(format=models_pb2.Model.FORMAT_SAFETENSORS, architecture=architectures.write(choice))
    check(message)
    spec = read(models_pb2.CreateModelRequest.FromString(message.SerializeToString()))
    assert spec.architecture is not None
    assert (spec.format, spec.architecture.name) == ("safetensors", choice.name)
    assert {name: repr(value) for name, value in spec.architecture.options.items()} == {
        name: repr(value) for name, value in choice.options.items()
    }
    stored = RESOURCE_SPEC.load(RESOURCE_SPEC.dump(replace(SPEC, architecture=choice)))
    assert repr(stored.architecture) == repr(choice)


def test_what_was_stored_before_there_were_any_is_read() -> None:
    old = b'{"format":"onnx","digest":"ab","objective":{"name":"cross_entropy"}}'
    assert RESOURCE_SPEC.load(old) == ModelSpec("onnx", "ab", ObjectiveSpec("cross_entropy"))


def test_weights_need_one_and_nothing_else_has_one() -> None:
    with pytest.raises(InvalidArgument, match="holds weights alone") as caught:
        read(request(format=models_pb2.Model.FORMAT_SAFETENSORS))
    assert caught.value.violations[0].field == "model.architecture"
    for other in (models_pb2.Model.FORMAT_ONNX, models_pb2.Model.FORMAT_PT2):
        with pytest.raises(InvalidArgument, match="is a whole model, so leave it out"):
            read(request(format=other, architecture=models_pb2.Architecture(name="mlp")))


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": ""},
        {"name": "x" * 257},
        {"name": "mlp", "options": {"a": models_pb2.Architecture.Option()}},
        {"name": "mlp", "options": {"a": models_pb2.Architecture.Option(number=float("nan"))}},
        {"name": "mlp", "options": {"a": models_pb2.Architecture.Option(text="x" * 257)}},
        {"name": "mlp", "options": {str(i): models_pb2.Architecture.Option(integer=1) for i in range(65)}},
        {"name": "mlp", "options": {"": models_pb2.Architecture.Option(integer=1)}},
        {
            "name": "mlp",
            "options": {
                "a": models_pb2.Architecture.Option(integers=models_pb2.Architecture.Integers(values=range(1025)))
            },
        },
    ],
)
def test_the_rules_of_the_proto_bound_it(architecture) -> None:
    message = request(format=models_pb2.Model.FORMAT_SAFETENSORS, architecture=models_pb2.Architecture(**architecture))
    with pytest.raises(InvalidArgument) as caught:
        check(message)
    assert caught.value.violations[0].field.startswith("model.architecture")


def test_the_service_lists_what_is_allowed() -> None:
    status = PoolStatus(devices=(), runners=(), libraries={})
    info = responses.server_info("1", (), server_info_pb2.Limits(), status, ("mlp", "ours"))
    built_in, installed = info.architectures
    assert (built_in.name, built_in.built_in) == ("mlp", True)
    assert [option.name for option in built_in.options] == [one.name for one in ARCHITECTURES["mlp"].options]
    sizes, activation = built_in.options
    assert not sizes.HasField("default_value")
    assert (activation.default_value, "gelu" in activation.allowed) == ("relu", True)
    assert (installed.name, installed.built_in, len(installed.options)) == ("ours", False, 0)
