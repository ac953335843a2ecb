"""Architectures that an operator's package brings."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from installed_architecture import NAMES, install
from undue_service.adapters.architectures import installed
from undue_service.domain.architectures import ArchitectureChoice
from undue_service.domain.errors import InvalidArgument, Reason
from undue_service.engine.program import Program
from undue_service.models import open_model, predict


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def weights():
    torch.manual_seed(0)
    return {
        "first.weight": torch.randn(4, 4),
        "first.bias": torch.randn(4),
        "head.weight": torch.randn(3, 4),
        "head.bias": torch.randn(3),
    }


def opened(folder, state, name="tied", **options):
    save_file(state, folder / "weights.safetensors")
    return open_model(folder / "weights.safetensors", "safetensors", folder, ArchitectureChoice(name, options))


def test_names_are_known_without_running_anything() -> None:
    assert dict.fromkeys(NAMES, 1).items() <= installed().items()


@pytest.mark.parametrize("under", [("first",), ("second",), ("first", "second")])
def test_tied_weights_and_buffers_of_its_own(tmp_path, under) -> None:
    state = weights()
    shared = state.pop("first.weight")
    found = opened(tmp_path, state | {f"{layer}.weight": shared.clone() for layer in under}, size=4)
    left, right = torch.randn(5, 4), torch.randn(5, 4)
    hidden = torch.tanh(torch.tanh(left * torch.arange(1.0, 5) @ shared.T + state["first.bias"]) @ shared.T) + right
    expected = hidden @ state["head.weight"].T + state["head.bias"]
    actual = predict(found, {"left": left.numpy(), "right": right.numpy()})["output"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    program = Program.from_exported(found.exported, input_names=["left", "right"], output_names=found.outputs)
    assert len(program.parameters) == 4
    assert {*program.aliases.items()} <= {("first.weight", "second.weight"), ("second.weight", "first.weight")}
    assert len(program.aliases) == 1


def test_tied_weights_that_differ_are_refused(tmp_path) -> None:
    with pytest.raises(InvalidArgument, match="one parameter and differ") as caught:
        opened(tmp_path, weights() | {"second.weight": torch.ones(4, 4)})
    assert caught.value.reason is Reason.WEIGHTS_MISMATCH


@pytest.mark.parametrize(
    ("name", "options", "reason", "said"),
    [
        ("tied", {"depth": 3}, Reason.INVALID_FIELD, r"takes size=4, classes=3: .*'depth'"),
        ("tied", {"size": "four"}, Reason.MODEL_UNSUPPORTED, "cannot be built"),
        ("tied", {"size": 5}, Reason.WEIGHTS_MISMATCH, r"tied\(size=5\)"),
        ("fails", {}, Reason.MODEL_UNSUPPORTED, "no such luck"),
        ("bare", {}, Reason.MODEL_UNSUPPORTED, "must return a torch.nn.Module and a dict"),
        ("unnamed", {}, Reason.MODEL_UNSUPPORTED, "no tensor with an axis of rows"),
        ("absent", {}, Reason.MODEL_UNSUPPORTED, "cannot be loaded"),
        ("nowhere", {}, Reason.MODEL_UNSUPPORTED, "has none of the architecture 'nowhere' installed"),
    ],
)
def test_what_goes_wrong_is_a_typed_error(tmp_path, name, options, reason, said) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        opened(tmp_path, weights(), name, **options)
    assert caught.value.reason is reason


@pytest.mark.parametrize("name", ["fixed", "strange"])
def test_what_the_engine_cannot_use_is_refused(tmp_path, name) -> None:
    state = {"linear.weight": torch.ones(3, 4), "linear.bias": torch.ones(3)}
    with pytest.raises(InvalidArgument) as caught:
        opened(tmp_path, state, name)
    expected = {"fixed": Reason.MODEL_UNSUPPORTED, "strange": Reason.UNSUPPORTED_OPERATORS}
    assert caught.value.reason is expected[name]
