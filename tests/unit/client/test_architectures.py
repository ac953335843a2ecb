"""Weights with an architecture, and files that torch and pickle wrote."""

import io
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

import undue
from undue._architectures import architecture, architecture_message, weights_source
from undue._foreign import foreign
from undue.v1 import models_pb2, server_info_pb2

OBJECTIVE = undue.Objective("cross_entropy")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


STATE = net().state_dict()


def saved(thing, **settings):
    content = io.BytesIO()
    torch.save(thing, content, **settings)
    return content.getvalue()


def scripted():
    content = io.BytesIO()
    torch.jit.save(torch.jit.trace(net(), torch.zeros(2, 3)), content)
    return content.getvalue()


OLD = {"_use_new_zipfile_serialization": False}


def as_file(folder):
    save_file(STATE, folder / "w.safetensors")
    return folder / "w.safetensors"


def as_pt(folder):
    (folder / "w.pt").write_bytes(saved(STATE))
    return str(folder / "w.pt")


def as_old_pth(folder):
    (folder / "w.pth").write_bytes(saved(STATE, **OLD))
    return folder / "w.pth"


def as_pt_without_a_name(folder):
    (folder / "weights").write_bytes(saved(dict(STATE)))
    return folder / "weights"


def as_mapping(folder):
    return STATE


def as_arrays(folder):
    return {name: tensor.numpy() for name, tensor in STATE.items()}


@pytest.mark.parametrize("form", [as_file, as_pt, as_old_pth, as_pt_without_a_name, as_mapping, as_arrays])
def test_weights_are_sent_as_safetensors(fake, client, tmp_path, form) -> None:
    options = {"sizes": [3, 4, 2], "activation": "relu"}
    source = form(tmp_path)
    model = client.models.register(
        "m", source, objective=OBJECTIVE, architecture="mlp", architecture_options=options, wait=False
    )
    assert model.format == "safetensors"
    assert model.architecture == undue.Architecture("mlp", {"activation": "relu", "sizes": (3, 4, 2)})
    [content] = fake.content.values()
    (tmp_path / "sent").write_bytes(content)
    sent = load_file(tmp_path / "sent")
    assert sent.keys() == STATE.keys()
    for name, tensor in STATE.items():
        np.testing.assert_array_equal(sent[name], tensor.numpy())
        assert sent[name].dtype == tensor.numpy().dtype


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "flag"), (3, "integer"), (0.5, "number"), ("relu", "text"), ([1, 2], "integers"), ((), "integers")],
)
def test_options_keep_their_kind(value, kind) -> None:
    message = architecture_message("ours", {"option": value})
    assert message.options["option"].WhichOneof("value") == kind
    [back] = architecture(message).options.values()
    assert (back, type(back)) == ((tuple(value), tuple) if kind == "integers" else (value, type(value)))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (None, {"classes": 3}, "name it"),
        ("", {}, "is no name"),
        (3, {}, "is no name"),
        ("mlp", [("sizes", 3)], "must be a dict"),
        ("mlp", {3: 3}, "name of no option"),
        ("mlp", {"sizes": None}, "no number, text"),
        ("mlp", {"sizes": [1, 2.5]}, "no number, text"),
        ("mlp", {"sizes": [True]}, "no number, text"),
        ("mlp", {"sizes": 2**70}, "sizes"),
        ("mlp", {"sizes": [2**70]}, "sizes"),
    ],
)
def test_wrong_options_are_said_before_anything_is_sent(fake, client, name, options, said) -> None:
    with pytest.raises(undue.InvalidArgument, match=said):
        client.models.register("m", STATE, objective=OBJECTIVE, architecture=name, architecture_options=options)
    assert not fake.calls


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


REFUSED = {
    "torchscript": ("m.pt", scripted, r"torch\.onnx\.export\(torch\.jit\.load", "MODEL_UNSUPPORTED"),
    "renamed torchscript": ("m.pt2", scripted, r"torch\.onnx\.export\(torch\.jit\.load", "MODEL_UNSUPPORTED"),
    "module": ("m.pt", lambda: saved(net()), r"torch\.nn\.modules.*weights_only=False", "MODEL_UNSAFE"),
    "old module": ("m.pth", lambda: saved(net(), **OLD), r"torch\.nn\.modules.*weights_only=False", "MODEL_UNSAFE"),
    "renamed module": ("m.onnx", lambda: saved(net()), "weights_only=False", "MODEL_UNSAFE"),
    "pickle": ("m.pkl", lambda: pickle.dumps({"coef": [1.0]}), "skl2onnx", "MODEL_UNSAFE"),
    "pickle without a name": ("m", lambda: pickle.dumps([1.0], protocol=4), "skl2onnx", "MODEL_UNSAFE"),
}


@pytest.mark.parametrize("with_architecture", [None, "mlp"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_runs_code_is_refused_by_content(fake, client, tmp_path, case, with_architecture) -> None:
    name, make, said, reason = REFUSED[case]
    path = written(tmp_path, name, make())
    with pytest.raises(undue.InvalidArgument, match=f"(?s){name}.*{said}") as caught:
        client.models.register("m", path, objective=OBJECTIVE, architecture=with_architecture)
    assert caught.value.reason == reason
    assert not fake.calls


@pytest.mark.parametrize("name", ["m.pt", "m.pt2", "m.onnx"])
@pytest.mark.parametrize("old", [False, True])
def test_a_state_dict_alone_needs_an_architecture(fake, client, tmp_path, name, old) -> None:
    path = written(tmp_path, name, saved(STATE, **(OLD if old else {})))
    with pytest.raises(undue.InvalidArgument, match=r"architecture=.*nn\.Module"):
        client.models.register("m", path, objective=OBJECTIVE)
    with pytest.raises(undue.InvalidArgument, match="architecture="):
        client.models.register("m", STATE, objective=OBJECTIVE)
    assert not fake.calls


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize("old", [False, True])
def test_nothing_in_a_file_is_run(tmp_path, old) -> None:
    content = saved({"weight": torch.zeros(3), "evil": Evil()}, **(OLD if old else {}))
    with pytest.raises(undue.InvalidArgument, match=r"(?s)exec.*run code") as caught:
        weights_source(written(tmp_path, "m.pt", content), tmp_path)
    assert caught.value.reason == "MODEL_UNSAFE"


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        ({"model": STATE, "epoch": 3}, r"one level down: pass torch\.load\('m\.pt', weights_only=True\)\['model'\]"),
        ({"weights_of_mine": STATE}, r"\['weights_of_mine'\]"),
        ({"a": 3}, "holds a dict, and no mapping"),
        ({}, "holds a dict, and no mapping"),
        ([torch.zeros(3)], "holds a list, and no mapping"),
        ({3: torch.zeros(3)}, "no mapping of name to tensor"),
        (torch.zeros(3), "holds a Tensor"),
        ({"x": torch.zeros(3, dtype=torch.complex64)}, r"source\['x'\].*complex64"),
    ],
)
def test_what_is_no_state_dict_says_what_is(tmp_path, thing, said) -> None:
    with pytest.raises(undue.InvalidArgument, match=said):
        weights_source(written(tmp_path, "m.pt", saved(thing)), tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (net(), "leave architecture out"),
        ("m.onnx", "leave architecture out"),
        ("m.pt2", "leave architecture out"),
        ("m.h5", "no such file"),
        ("m.safetensors", "cannot be read"),
        (3, "is a int"),
        ({}, "is a dict"),
        ({"x": "text"}, r"source\['x'\]"),
    ],
)
def test_other_sources_are_refused(fake, client, source, said) -> None:
    with pytest.raises(undue.InvalidArgument, match=said):
        client.models.register("m", source, objective=OBJECTIVE, architecture="mlp")
    assert not fake.calls


def test_without_torch_it_says_so(tmp_path, monkeypatch) -> None:
    path = written(tmp_path, "m.pt", saved(STATE))
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(undue.InvalidArgument, match="takes torch to be read"):
        weights_source(path, tmp_path)


def test_the_registrations_that_are_read_are_left_alone(tmp_path) -> None:
    program = torch.export.export(net(), (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "m.pt2")
    assert foreign(tmp_path / "m.pt2") is None
    for padding in range(1, 800):
        save_file(STATE, tmp_path / "w.safetensors", metadata={"note": "x" * padding})
        assert foreign(tmp_path / "w.safetensors") is None
    assert foreign(tmp_path) is None
    assert foreign(tmp_path / "nothing") is None
    assert foreign(written(tmp_path, "empty", b"")) is None
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a/b.png", b"x")
    assert foreign(tmp_path / "d.zip") is None


CONTENTS = [saved(STATE), saved(STATE, **OLD), saved(net()), scripted(), pickle.dumps(STATE)]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.sampled_from(CONTENTS),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    kept=st.floats(0, 1) | st.just(1.0),
)
def test_damage_is_a_typed_error_or_noticed_by_the_service(tmp_path_factory, content, flips, kept) -> None:
    damaged = bytearray(content[: int(len(content) * kept)])
    for place, byte in flips if damaged else ():
        damaged[place % len(damaged)] = byte
    folder = tmp_path_factory.mktemp("damaged", numbered=True)
    try:
        path = weights_source(written(folder, "m.safetensors", damaged), folder)
    except undue.InvalidArgument:
        return
    assert path.is_file()


def test_what_a_service_has_is_listed() -> None:
    from undue import _convert

    option = server_info_pb2.ArchitectureOptionInfo(
        name="classes", meaning="outputs", allowed="from 1", default_value="10"
    )
    needed = server_info_pb2.ArchitectureOptionInfo(name="sizes")
    message = server_info_pb2.ServerInfo(
        architectures=[
            server_info_pb2.ArchitectureInfo(name="mlp", built_in=True, meaning="layers", options=[option, needed]),
            server_info_pb2.ArchitectureInfo(name="ours"),
        ]
    )
    mlp, ours = _convert.server_info(message).architectures
    assert mlp.options[0] == undue.ArchitectureOption("classes", "outputs", "from 1", "10")
    assert mlp.options[1].default is None
    assert (ours.built_in, ours.options) == (False, ())


def test_models_of_other_formats_have_none() -> None:
    from undue import _convert

    objective = models_pb2.Objective(loss=models_pb2.Objective.LOSS_CROSS_ENTROPY)
    message = models_pb2.Model(
        name="models/m/versions/1", format=models_pb2.Model.FORMAT_ONNX, state=1, objective=objective
    )
    assert _convert.model(message).architecture is None
