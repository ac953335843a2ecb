"""Archives that attack. `torch.export.load` runs their code; opening them never does."""

import contextlib
import io
import json
import logging
import pathlib
import pickle
import re
import struct
import sys
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from undue_service.domain.errors import Error, FailedPrecondition, Reason
from undue_service.models.foreign import TORCHSCRIPT_EXPORT
from undue_service.models.refusals import PT2_EXPORT

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


@pytest.fixture(scope="module")
def archive():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    program = torch.export.export(module, (torch.randn(3, 2, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


class Payload:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, marker):
        self.marker = pathlib.Path(marker)

    def __reduce__(self):
        return (pathlib.Path.touch, (self.marker,))


def saved(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def graph(program):
    return program["graph_module"]["graph"]


def call(program):
    return program["graph_module"]["module_call_graph"][0]["signature"]


def code(marker):
    return f"__import__('pathlib').Path({str(marker)!r}).touch()"


def in_sample_inputs(marker):
    return {"data/sample_inputs/model.pt": saved(((torch.zeros(3, 2, 2), Payload(marker)), {}))}


def in_pickled_weight(marker):
    def edit(config):
        config["config"]["1.weight"]["use_pickle"] = True

    return {WEIGHTS: edit, "data/weights/weight_0": saved(Payload(marker))}


def in_pickled_constant(marker):
    def edit(config):
        config["config"]["evil"] = {"path_name": "tensor_0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    return {CONSTANTS: edit, "data/constants/tensor_0": saved(Payload(marker))}


def in_opaque_object(marker):
    def edit(config):
        config["config"]["evil"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    return {CONSTANTS: edit, "data/constants/opaque_obj_0": pickle.dumps(Payload(marker))}


def in_legacy_weights(marker):
    return {"data/weights/model.pt": saved(Payload(marker))}


def in_size(marker):
    def edit(program):
        graph(program)["tensor_values"]["input"]["sizes"][0]["as_expr"]["expr_str"] = code(marker)

    return {PROGRAM: edit}


def in_symbol(marker):
    def edit(program):
        size = graph(program)["tensor_values"]["input"]["sizes"][0]["as_expr"]
        size["expr_str"] = f"Symbol('s0', positive={code(marker)} is None)"

    return {PROGRAM: edit}


def in_stride(marker):
    def edit(program):
        graph(program)["tensor_values"]["flatten"]["strides"][0] = {"as_expr": {"expr_str": code(marker), "hint": None}}

    return {PROGRAM: edit}


def in_size_value(marker):
    def edit(program):
        value = {"as_expr": {"expr_str": code(marker), "hint": None}}
        graph(program)["sym_int_values"]["size"] = value
        node = json.loads(json.dumps(graph(program)["nodes"][0]))
        node |= {
            "target": "torch.ops.aten.sym_size.int",
            "name": "size",
            "outputs": [{"as_sym_int": {"as_name": "size"}}],
        }
        node["inputs"][1]["name"] = "dim"
        graph(program)["nodes"].insert(0, node)

    return {PROGRAM: edit}


def in_argument_name(marker):
    def edit(program):
        name = json.dumps(f"input=({code(marker)})")
        text = json.dumps(program).replace('"name": "input"}', f'"name": {name}}}').replace('"input": {', f"{name}: {{")
        return json.loads(text)

    return {PROGRAM: edit}


def in_tree_specification(marker):
    folder = marker.parent / "modules"
    folder.mkdir(exist_ok=True)
    module = f"leaves_a_file_{abs(hash(marker))}"
    (folder / f"{module}.py").write_text(f"{code(marker)}\nX = {{'Y': 'y'}}\n")
    sys.path.insert(0, str(folder))

    def edit(program):
        leaf = {"type": None, "context": None, "children_spec": []}
        context = json.dumps([{"__enum__": True, "fqn": f"{module}:X", "name": "Y"}])
        call(program)["out_spec"] = json.dumps(
            [1, {"type": "builtins.dict", "context": context, "children_spec": [leaf]}]
        )

    return {PROGRAM: edit}


def in_guard(marker):
    def edit(program):
        program["guards_code"] = [f"{code(marker)} or True"]

    return {PROGRAM: edit}


ATTACKS = {
    in_sample_inputs: None,
    in_pickled_weight: Reason.MODEL_UNSAFE,
    in_pickled_constant: Reason.MODEL_UNSAFE,
    in_opaque_object: Reason.MODEL_UNSAFE,
    in_legacy_weights: Reason.MODEL_UNSAFE,
    in_size: Reason.MODEL_UNSAFE,
    in_symbol: Reason.MODEL_UNSAFE,
    in_stride: Reason.MODEL_UNSAFE,
    in_size_value: Reason.MODEL_UNSAFE,
    in_argument_name: Reason.MODEL_UNSAFE,
    in_tree_specification: Reason.MODEL_UNSUPPORTED,
    in_guard: None,
}
"""Payload to how it is refused; None where it is left out of the fresh archive and the model opens."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_code_that_torch_runs_is_not_run(attack, archive, tamper, open_bytes, marker, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    content = tamper(archive, attack(marker))

    with contextlib.suppress(Exception):  # whatever torch says of it: the payload has run by then
        torch.export.load(io.BytesIO(content)).module()(torch.zeros(2, 2, 2))
    assert marker.exists(), "the payload no longer works, so the rest of this test would prove nothing"
    marker.unlink()
    for name in [name for name in sys.modules if name.startswith("leaves_a_file")]:
        del sys.modules[name]

    reason = ATTACKS[attack]
    if reason is None:
        opened = open_bytes(content, "pt2")
        opened.exported.module()(torch.zeros(2, 2, 2))
    else:
        with pytest.raises(Error) as caught:
            open_bytes(content, "pt2")
        assert caught.value.reason is reason
    assert not marker.exists()


EXPRESSIONS = [
    "Integer(__import__('os').system('true'))",
    "s0",
    "Symbol(s0)",
    "Symbol('s0').__class__",
    "Symbol('s0', commutative=True)",
    "Symbol('x')",
    "Add(Symbol('s0'), lambda: 0)",
    "Integer(9)" * 100,
    "Add(" * 30 + "Integer(1)" + ")" * 30,
    f"Mul({', '.join(['Integer(999999999999999999)'] * 100)})",
    "Pow(Integer(10), Integer(1000000000))",
    "Pow(Integer(10), Pow(Integer(10), Integer(4)))",
    "Integer(9999999999999999999999)",
    "eval('1')",
    "",
    "Symbol('s0'))",
    "Symbol('s0', positive=True",
    "Integer(1) # s",
    "Integer(１)",
    "A" * 100_000,
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda text: text[:40])
@pytest.mark.parametrize("place", ["input", "linear"])
def test_expressions_outside_the_grammar_are_unsafe(expression, place, archive, tamper, open_bytes):
    def edit(program):
        graph(program)["tensor_values"][place]["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": None}}

    with pytest.raises(Error) as caught:
        open_bytes(tamper(archive, {PROGRAM: edit}), "pt2")
    assert caught.value.reason is Reason.MODEL_UNSAFE
    assert len(caught.value.message) < 1_000


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("torch.os.system", Reason.MODEL_UNSAFE),
        ("torch.ops.load_library", Reason.MODEL_UNSAFE),
        ("torch.ops.mylib.evil.default", Reason.MODEL_UNSAFE),
        ("torch.ops.higher_order.cond", Reason.MODEL_UNSAFE),
        ("torch.ops.aten.__class__.default", Reason.UNSUPPORTED_OPERATORS),
        ("torch.ops.aten.relu.__class__", Reason.UNSUPPORTED_OPERATORS),
        ("torch.ops.aten.from_file.default", Reason.UNSUPPORTED_OPERATORS),
        ("torch.ops.aten.set_.source_Storage", Reason.UNSUPPORTED_OPERATORS),
        ("torch.ops.aten.max.dim_max", Reason.UNSUPPORTED_OPERATORS),
        ("torch.ops.aten.relu.out", Reason.UNSUPPORTED_OPERATORS),
        ("torch.ops.aten.as_strided.default", Reason.UNSUPPORTED_OPERATORS),
        ("_operator.attrgetter", Reason.MODEL_UNSAFE),
        ("_operator.pow", Reason.MODEL_UNSAFE),
        ("math.trunc", Reason.MODEL_UNSAFE),
        ("#ext:op", Reason.MODEL_UNSAFE),
        ("builtins.eval", Reason.MODEL_UNSAFE),
        ("", Reason.MODEL_UNSAFE),
    ],
)
def test_only_listed_operators_are_called(target, reason, archive, tamper, open_bytes):
    def edit(program):
        graph(program)["nodes"][2]["target"] = target

    with pytest.raises(Error) as caught:
        open_bytes(tamper(archive, {PROGRAM: edit}), "pt2")
    assert caught.value.reason is reason
    assert target.removeprefix("torch.ops.") in caught.value.message


def edited(path, value):
    def edit(program):
        *way, last = path
        place = program
        for key in way:
            place = place[key]
        place[last] = value

    return edit


GRAPH = ("graph_module", "graph")
NODE = (*GRAPH, "nodes", 0)
VALUES = (*GRAPH, "tensor_values")
PARAMETER = ("graph_module", "signature", "input_specs", 0, "parameter", "parameter_name")
CALL = ("graph_module", "module_call_graph", 0, "signature")
META = {"dtype": 7, "sizes": [], "requires_grad": False, "device": {"type": "cpu"}, "strides": [], "layout": 7}
META["storage_offset"] = {"as_int": 0}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edited((*GRAPH, "custom_obj_values"), {"o": {"name": "o", "class_fqn": "os"}}), Reason.MODEL_UNSAFE),
        (edited((*NODE, "inputs", 1, "arg"), {"as_operator": "torch.os.system"}), Reason.MODEL_UNSAFE),
        (edited((*NODE, "inputs", 1, "arg"), {"as_custom_obj": {"name": "o", "class_fqn": ""}}), Reason.MODEL_UNSAFE),
        (edited((*NODE, "inputs", 1, "arg"), {"as_string": "$(touch /tmp/x)"}), Reason.MODEL_UNSUPPORTED),
        (edited((*NODE, "inputs", 0, "arg"), {"as_tensor": {"name": "nobody"}}), Reason.MODEL_MALFORMED),
        (edited((*NODE, "inputs", 0, "name"), "nobody"), Reason.MODEL_MALFORMED),
        (edited((*NODE, "name"), "a\n    b"), Reason.MODEL_UNSAFE),
        (edited((*NODE, "unknown"), 1), Reason.MODEL_MALFORMED),
        (edited((*GRAPH, "nodes", 0), 7), Reason.MODEL_MALFORMED),
        (edited((*NODE, "outputs", 0), {"as_tensor": {"name": "input"}}), Reason.MODEL_MALFORMED),
        (edited((*VALUES, "self"), META), Reason.MODEL_UNSAFE),
        (edited((*VALUES, "x" * 300), META), Reason.MODEL_UNSAFE),
        (edited((*VALUES, "linear", "dtype"), 99), Reason.MODEL_MALFORMED),
        (edited((*VALUES, "linear", "dtype"), 8), Reason.MODEL_MALFORMED),
        (edited((*VALUES, "linear", "sizes", 1), {"as_int": 4}), Reason.MODEL_MALFORMED),
        (edited((*VALUES, "p_1_weight", "sizes", 1), {"as_int": 2**62}), Reason.MODEL_MALFORMED),
        (edited((*GRAPH, "outputs", 0), {"as_tensor": {"name": "linear"}}), Reason.MODEL_MALFORMED),
        (edited(PARAMETER, "__class__.x"), Reason.MODEL_UNSAFE),
        (edited(PARAMETER, "forward"), Reason.MODEL_UNSAFE),
        (edited(PARAMETER, "3.weight"), Reason.MODEL_MALFORMED),
        (edited(PARAMETER, "gone"), Reason.MODEL_MALFORMED),
        (edited((*CALL, "forward_arg_names"), ["a=b"]), Reason.MODEL_UNSAFE),
        (edited(("graph_module", "module_call_graph"), []), Reason.MODEL_MALFORMED),
        (edited((*CALL, "out_spec"), '[1, {"type": "os.X"}]'), Reason.MODEL_MALFORMED),
        (edited((*CALL, "out_spec"), "[" * 100_000), Reason.MODEL_MALFORMED),
        (edited(("graph_module", "treespec_namedtuple_fields"), {"os": {"field_names": []}}), Reason.MODEL_UNSUPPORTED),
        (edited(("range_constraints",), {"s77; import os": {"min_val": 0, "max_val": 1}}), Reason.MODEL_UNSUPPORTED),
        (edited(("range_constraints",), {"s77": {"min_val": 0.5, "max_val": None}}), Reason.MODEL_MALFORMED),
        (edited(("verifiers",), ["EDGE"]), Reason.MODEL_UNSUPPORTED),
        (edited(("schema_version", "major"), 7), Reason.MODEL_UNSUPPORTED),
        (edited(("torch_version",), None), Reason.MODEL_MALFORMED),
    ],
)  # fmt: skip
def test_programs_that_lie_are_refused(edit, reason, archive, tamper, open_bytes):
    with pytest.raises(Error) as caught:
        open_bytes(tamper(archive, {PROGRAM: edit}), "pt2")
    assert caught.value.reason is reason


@pytest.mark.parametrize("version", ["2.12.1", "2.5.0+cpu", "3.0.0", "12.13.0", "2.130.0"])
def test_another_version_of_torch_is_named(version, archive, tamper, open_bytes):
    edit = edited(("torch_version",), version)
    with pytest.raises(FailedPrecondition) as caught:
        open_bytes(tamper(archive, {PROGRAM: edit}), "pt2")
    assert caught.value.reason is Reason.TORCH_VERSION
    assert version in caught.value.message
    assert torch.__version__ in caught.value.message
    assert caught.value.metadata == {"archive": version, "service": torch.__version__}


def weight(**changes):
    def edit(config):
        entry = config["config"]["1.weight"]
        entry["tensor_meta"] |= {key: value for key, value in changes.items() if key in entry["tensor_meta"]}
        entry |= {key: value for key, value in changes.items() if key in entry}

    return {WEIGHTS: edit}


@pytest.mark.parametrize(
    "edits",
    [
        weight(sizes=[{"as_int": 4}, {"as_int": 4}]),
        weight(strides=[{"as_int": 400}, {"as_int": 1}]),
        weight(strides=[{"as_int": -4}, {"as_int": 1}]),
        weight(storage_offset={"as_int": 1}),
        weight(storage_offset={"as_int": 2**60}),
        weight(dtype=8),
        weight(path_name="weight_99"),
        weight(path_name="../../etc/passwd"),
        weight(path_name="../models/model.json"),
        weight(tensor_meta=None),
        {"data/weights/weight_0": b""},
        {"data/weights/weight_0": b"\x00" * 47},
        {"data/weights/weight_0": struct.pack("<12f", *[0.0] * 11, float("nan"))},
        {"data/weights/weight_0": None},
        {WEIGHTS: None},
        {WEIGHTS: b"{}"},
        {WEIGHTS: b"\xff\xfe"},
        {WEIGHTS: b'{"config": {}, "config": {}}'},
        {WEIGHTS: b'{"config": NaN}'},
        {PROGRAM: b"[" * 200_000},
        {PROGRAM: b"1" * 10_000},
        {PROGRAM: None},
        {"archive_format": b"pt3"},
        {"archive_version": b"1"},
    ],
)
def test_tensors_and_records_that_lie_are_malformed(edits, archive, tamper, open_bytes):
    with pytest.raises(Error) as caught:
        open_bytes(tamper(archive, edits), "pt2")
    assert caught.value.reason is Reason.MODEL_MALFORMED


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("data/aotinductor/model/wrapper.so", Reason.MODEL_UNSAFE),
        ("data/executorch/model.pte", Reason.MODEL_UNSAFE),
        ("extra/lib.so", Reason.MODEL_UNSAFE),
        ("data/constants/custom_obj_0", Reason.MODEL_UNSAFE),
        ("data/weights/../../../evil", Reason.MODEL_UNSAFE),
        ("/etc/passwd", Reason.MODEL_UNSAFE),
        ("data\\weights", Reason.MODEL_UNSAFE),
        ("new\nline", Reason.MODEL_UNSAFE),
        ("unknown", Reason.MODEL_UNSAFE),
        ("models/other.json", Reason.MODEL_UNSUPPORTED),
    ],
)
def test_records_that_do_not_belong_are_named(record, reason, archive, tamper, open_bytes):
    with pytest.raises(Error) as caught:
        open_bytes(tamper(archive, {record: b"content"}), "pt2")
    assert caught.value.reason is reason
    assert repr(record)[1:-1].split("/")[-1] in caught.value.message


def test_compressed_and_repeated_records_are_refused(archive, tamper, open_bytes):
    bomb = tamper(archive, {"data/weights/weight_0": b"\x00" * 50_000_000}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000
    with pytest.raises(Error, match="compressed") as caught:
        open_bytes(bomb, "pt2")
    assert caught.value.reason is Reason.MODEL_MALFORMED
    twice = io.BytesIO(archive)
    with zipfile.ZipFile(twice, "a") as written, pytest.warns(UserWarning, match="Duplicate"):
        written.writestr(written.namelist()[0], b"other")
    with pytest.raises(Error, match="twice") as caught:
        open_bytes(twice.getvalue(), "pt2")
    assert caught.value.reason is Reason.MODEL_UNSAFE


def test_a_record_longer_than_the_archive_is_refused(archive, tamper, open_bytes):
    content = bytearray(archive)
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<II", content, entry + 20, 2**31 - 2, 2**31 - 2)
    with pytest.raises(Error, match="declares") as caught:
        open_bytes(bytes(content), "pt2")
    assert caught.value.reason is Reason.MODEL_MALFORMED


def test_pickles_and_torchscript_name_the_command_that_converts(open_bytes, tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    legacy = io.BytesIO()
    torch.save(nn.Linear(2, 2), legacy, _use_new_zipfile_serialization=False)
    files = {
        "script": ((tmp_path / "script.pt").read_bytes(), Reason.MODEL_UNSUPPORTED),
        "state": (saved(nn.Linear(2, 2).state_dict()), Reason.MODEL_UNSAFE),
        "module": (saved(nn.Linear(2, 2)), Reason.MODEL_UNSAFE),
        "legacy": (legacy.getvalue(), Reason.MODEL_UNSAFE),
    }
    for content, reason in files.values():
        line = TORCHSCRIPT_EXPORT if reason is Reason.MODEL_UNSUPPORTED else PT2_EXPORT
        with pytest.raises(Error, match=re.escape(line)) as caught:
            open_bytes(content, "pt2")
        assert caught.value.reason is reason


def test_the_layout_of_older_torch_is_a_version_error(open_bytes):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as written:
        written.writestr("version", "8.2")
        written.writestr("serialized_exported_program.json", json.dumps({"torch_version": "2.6.0"}))
    with pytest.raises(FailedPrecondition) as caught:
        open_bytes(content.getvalue(), "pt2")
    assert caught.value.reason is Reason.TORCH_VERSION


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + b"\x00" * 18, b"not a zip", b"\x08\x08onnx"])
def test_what_is_not_an_archive_is_malformed(content, open_bytes):
    with pytest.raises(Error) as caught:
        open_bytes(content, "pt2")
    assert caught.value.reason is Reason.MODEL_MALFORMED


@pytest.mark.parametrize("kept", [k / 20 for k in range(20)])
def test_truncated_archives_are_malformed(kept, archive, open_bytes):
    with pytest.raises(Error) as caught:
        open_bytes(archive[: int(len(archive) * kept)], "pt2")
    assert caught.value.reason is Reason.MODEL_MALFORMED


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=3))
def test_flipped_bits_open_or_are_a_typed_error(flips, archive, outcome):
    content = bytearray(archive)
    for place, bit in flips:
        content[place % len(content)] ^= 1 << bit
    assert outcome(bytes(content), "pt2") != "INTERNAL"


NASTY = [
    None,
    -1,
    0,
    2,
    2**63,
    10**30,
    1.5,
    True,
    "",
    "x",
    "linear",
    "__import__('os')",
    [],
    {},
    [[]],
    {"as_int": -1},
    {"as_none": True},
]


def places(data, way=()):
    yield way
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in children:
        yield from places(child, (*way, key))


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    record=st.sampled_from([PROGRAM, PROGRAM, WEIGHTS]),
    where=st.integers(0, 10**6),
    value=st.sampled_from(NASTY),
    drop=st.booleans(),
)
def test_any_changed_value_opens_or_is_a_typed_error(record, where, value, drop, archive, tamper, outcome, tmp_path):
    def edit(program):
        ways = list(places(program))[1:]
        *way, last = ways[where % len(ways)]
        place = program
        for key in way:
            place = place[key]
        if drop:
            del place[last]
        else:
            place[last] = value

    assert outcome(tamper(archive, {record: edit}), "pt2") != "INTERNAL"
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
