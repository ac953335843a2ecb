"""Files of torch.jit.save, torch.save and pickle, raw, as every format: refused with lines that work."""

import io
import pickle
import warnings
import zipfile

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from undue_service.domain.architectures import ArchitectureChoice
from undue_service.domain.errors import Error, InvalidArgument, Reason
from undue_service.models import open_model, open_weights, predict
from undue_service.models.foreign import SKLEARN_EXPORT, STATE_DICT_EXPORT, TORCHSCRIPT_EXPORT
from undue_service.models.refusals import PT2_EXPORT

MLP = ArchitectureChoice("mlp", {"sizes": (4, 6, 3), "activation": "relu"})
FORMATS = ("onnx", "pt2", "safetensors")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def scripted(make):
    content = io.BytesIO()
    torch.jit.save(make(net()), content)
    return content.getvalue()


def saved(thing, **settings):
    content = io.BytesIO()
    torch.save(thing, content, **settings)
    return content.getvalue()


OLD = {"_use_new_zipfile_serialization": False}
FILES = {
    "traced": (lambda: scripted(lambda one: torch.jit.trace(one, torch.zeros(2, 4))), TORCHSCRIPT_EXPORT),
    "scripted": (lambda: scripted(torch.jit.script), TORCHSCRIPT_EXPORT),
    "state": (lambda: saved(net().state_dict()), STATE_DICT_EXPORT),
    "module": (lambda: saved(net()), PT2_EXPORT),
    "old state": (lambda: saved(net().state_dict(), **OLD), STATE_DICT_EXPORT),
    "old module": (lambda: saved(net(), **OLD), PT2_EXPORT),
    **{
        f"pickle {i}": (lambda i=i: pickle.dumps({"coef": np.ones(3)}, protocol=i), SKLEARN_EXPORT)
        for i in (2, 3, 4, 5)
    },
}


def refusal(tmp_path, content, kind):
    path = tmp_path / f"model.{kind}"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument) as caught:
        open_model(path, kind, tmp_path, MLP if kind == "safetensors" else None)
    return caught.value


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", FILES)
def test_each_is_refused_with_the_line_to_run(tmp_path, name, kind) -> None:
    make, line = FILES[name]
    error = refusal(tmp_path, make(), kind)
    assert error.reason is (Reason.MODEL_UNSUPPORTED if line == TORCHSCRIPT_EXPORT else Reason.MODEL_UNSAFE)
    assert line in error.message
    assert [path.name for path in tmp_path.iterdir()] == [f"model.{kind}"], "something is left behind"


@pytest.mark.parametrize("name", ["state", "scripted", "pickle 4"])
def test_as_weights_of_a_checkpoint_too(tmp_path, name) -> None:
    make, line = FILES[name]
    (tmp_path / "epoch.safetensors").write_bytes(make())
    with pytest.raises(InvalidArgument) as caught:
        open_weights(tmp_path / "epoch.safetensors", "safetensors", tmp_path)
    assert line in caught.value.message


def run(line, folder, monkeypatch, **names):
    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(line, {"torch": torch, "onnx": onnx, "safetensors": safetensors, **names})


@pytest.mark.parametrize("name", ["traced", "scripted"])
def test_the_line_for_torchscript_makes_the_same_model(tmp_path, monkeypatch, name) -> None:
    (tmp_path / "model.pt").write_bytes(FILES[name][0]())
    x = torch.randn(5, 4)
    run(TORCHSCRIPT_EXPORT, tmp_path, monkeypatch, x=x[:2])
    opened = open_model(tmp_path / "model.onnx", "onnx", tmp_path)
    np.testing.assert_allclose(predict(opened, {"input": x.numpy()})["output"], net()(x).detach(), rtol=1e-5, atol=1e-6)
    assert {n for n, _ in opened.exported.named_parameters()} == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_the_line_for_a_state_dict_makes_the_same_model(tmp_path, monkeypatch) -> None:
    (tmp_path / "model.pt").write_bytes(FILES["state"][0]())
    run(STATE_DICT_EXPORT, tmp_path, monkeypatch)
    opened = open_model(tmp_path / "weights.safetensors", "safetensors", tmp_path, MLP)
    x = torch.randn(5, 4)
    np.testing.assert_allclose(predict(opened, {"input": x.numpy()})["output"], net()(x).detach(), rtol=1e-6)


def test_the_line_for_a_module_makes_the_same_model(tmp_path, monkeypatch) -> None:
    x = torch.randn(5, 4)
    run(PT2_EXPORT, tmp_path, monkeypatch, x=x[:2], model=net())
    opened = open_model(tmp_path / "model.pt2", "pt2", tmp_path)
    np.testing.assert_allclose(predict(opened, {"input": x.numpy()})["output"], net()(x).detach(), rtol=1e-6)


def test_a_pt2_archive_of_another_format_is_told_so(tmp_path) -> None:
    run(PT2_EXPORT, tmp_path, pytest.MonkeyPatch(), x=torch.zeros(2, 4), model=net())
    content = (tmp_path / "model.pt2").read_bytes()
    for kind in ("onnx", "safetensors"):
        assert "register it as format pt2" in refusal(tmp_path, content, kind).message


def test_weights_whose_length_looks_like_a_pickle_are_weights(tmp_path) -> None:
    """The header's length, little-endian, comes first: 0x0280 is how a pickle of protocol 2 begins."""
    state = net().state_dict()
    for padding in range(1, 800):
        content = safetensors.torch.save(state, metadata={"note": "x" * padding})
        if content[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header of that length")
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert open_model(tmp_path / "weights.safetensors", "safetensors", tmp_path, MLP).outputs == ("output",)


CONTENTS = {name: make() for name, (make, _) in FILES.items() if name != "scripted"}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(CONTENTS)),
    kind=st.sampled_from(FORMATS),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    kept=st.floats(0, 1) | st.just(1.0),
)
def test_damaged_ones_are_a_typed_error(tmp_path_factory, name, kind, flips, kept) -> None:
    content = bytearray(CONTENTS[name][: int(len(CONTENTS[name]) * kept)])
    for place, byte in flips if content else ():
        content[place % len(content)] = byte
    folder = tmp_path_factory.mktemp("damaged", numbered=True)
    (folder / "model").write_bytes(content)
    with pytest.raises(Error) as caught:
        open_model(folder / "model", kind, folder, MLP if kind == "safetensors" else None)
    assert caught.value.reason in (Reason.MODEL_MALFORMED, Reason.MODEL_UNSAFE, Reason.MODEL_UNSUPPORTED)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    names=st.lists(st.sampled_from(["a/data.pkl", "a/code/x.py", "a/constants.pkl", "data.pkl", "b", "../c", "a/d"]))
)
def test_zip_files_of_any_records_are_a_typed_error(tmp_path_factory, names) -> None:
    folder = tmp_path_factory.mktemp("zips", numbered=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # records of one name
        with zipfile.ZipFile(folder / "model", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
    for kind in FORMATS:
        with pytest.raises(InvalidArgument) as caught:
            open_model(folder / "model", kind, folder, MLP if kind == "safetensors" else None)
        assert caught.value.reason in (Reason.MODEL_MALFORMED, Reason.MODEL_UNSAFE, Reason.MODEL_UNSUPPORTED)
