"""Weights files that are damaged, or not what they say: each is a typed error, and nothing is left behind."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from undue_service.domain.errors import Error, InvalidArgument, Reason, ResourceExhausted
from undue_service.models import limits, open_weights, weights

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2, dtype=torch.float64)}
GOOD = save(STATE)
HEADER_BYTES = int.from_bytes(GOOD[:8], "little")
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def packed(header: Any, data: bytes = b"", declared: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if declared is None else declared) + text + data


def pickled() -> bytes:
    content = io.BytesIO()
    torch.save(STATE, content)
    return content.getvalue()


def opened(folder: Path, content: bytes) -> dict[str, torch.Tensor]:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    path = folder / "epoch.safetensors"
    path.write_bytes(content)
    try:
        return open_weights(path, "safetensors", scratch)
    finally:
        assert list(scratch.iterdir()) == [], "something is left behind"
        assert path.read_bytes() == content


def test_a_sound_file_is_read_as_it_is(tmp_path) -> None:
    found = opened(tmp_path, GOOD)
    assert found.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    with_notes = packed({"__metadata__": {"epoch": "3"}, "w": ONE}, bytes(4))
    assert list(opened(tmp_path, with_notes)) == ["w"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_other_types_of_numbers_are_read_too(tmp_path, dtype) -> None:
    [found] = opened(tmp_path, save({"w": torch.ones(3).to(dtype)})).values()
    assert found.dtype == dtype


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "header"),
        (GOOD[:4], "header"),
        (GOOD[: HEADER_BYTES // 2], "JSON"),
        (GOOD[:-1], "not fully covered"),
        (GOOD + b"\0", "not fully covered"),
        (packed({"w": ONE}, bytes(4), declared=5), "JSON"),
        (packed({"w": ONE}, bytes(4), declared=2**63), "its header would have 9,223,372,036,854,775,808 bytes"),
        (packed({"w": ONE}, bytes(4), declared=weights.MAX_HEADER_BYTES + 1), "its header would have"),
        (packed(b"[1]"), "no JSON object"),
        (packed(b"\xff\xfe{}"), "utf-8"),
        (packed(b"[" * 100_000), "JSON"),
        (packed({"w": 1}), "safetensors"),
        (packed({"w": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "safetensors"),
        (packed({"w": ONE | {"shape": [2**40, 2**40]}}, bytes(4)), "overflow"),
        (packed({"w": ONE | {"shape": [-1]}}, bytes(4)), "safetensors"),
        (packed({"w": ONE | {"shape": [2]}}, bytes(4)), "safetensors"),
        (packed({"w": ONE | {"data_offsets": [4, 0]}}, bytes(4)), "safetensors"),
        (packed({"w": ONE, "v": ONE}, bytes(4)), "offset"),
        (
            packed({"w": ONE | {"shape": [2], "data_offsets": [0, 8]}, "v": ONE | {"data_offsets": [4, 8]}}, bytes(8)),
            "offset",
        ),
        (packed({"w": ONE, "v": ONE | {"data_offsets": [8, 12]}}, bytes(12)), "offset"),
        (packed(b'{"w": %b, "w": %b}' % (2 * (json.dumps(ONE).encode(),)), bytes(4)), "stands twice"),
    ],
)
def test_a_file_that_lies_is_malformed(tmp_path, content, said) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        opened(tmp_path, content)
    assert caught.value.reason is Reason.MODEL_MALFORMED
    assert "save_file" in caught.value.message, "it does not say how to write one"


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "C64", "U16", "Q4"])
def test_types_that_nothing_computes_with_are_named(tmp_path, dtype) -> None:
    entry = {"dtype": dtype, "shape": [8], "data_offsets": [0, 8]}
    with pytest.raises(InvalidArgument, match=f"'w' are of the type {dtype}") as caught:
        opened(tmp_path, packed({"w": entry}, bytes(8)))
    assert caught.value.reason is Reason.MODEL_UNSUPPORTED


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_not_finite_is_named(tmp_path, value, dtype) -> None:
    wrong = STATE | {"layer.bias": torch.tensor([0, value], dtype=dtype)}
    with pytest.raises(InvalidArgument, match=r"layer\.bias") as caught:
        opened(tmp_path, save(wrong))
    assert (caught.value.reason, caught.value.metadata) == (Reason.NON_FINITE_DATA, {"parameter": "layer.bias"})


def test_files_beyond_a_bound_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(weights, "MAX_ENTRIES", 1)
    with pytest.raises(ResourceExhausted) as caught:
        opened(tmp_path, GOOD)
    assert caught.value.reason is Reason.UPLOAD_TOO_LARGE
    monkeypatch.setattr(weights, "MAX_FILE_BYTES", len(GOOD) - 1)
    with pytest.raises(ResourceExhausted, match="size of the weights file"):
        opened(tmp_path, GOOD)
    assert weights.MAX_HEADER_BYTES > 400 * limits.MAX_ENTRIES, "a file of as many tensors as are allowed has no room"


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_any_damage_is_noticed_or_harmless(tmp_path_factory, place, byte, cut) -> None:
    content = GOOD[:place] if cut else GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    try:
        found = opened(tmp_path_factory.mktemp("damaged", numbered=True), content)
    except Error as refusal:
        assert refusal.reason in (Reason.MODEL_MALFORMED, Reason.MODEL_UNSUPPORTED, Reason.NON_FINITE_DATA)
    else:
        assert not cut
        assert sum(tensor.numel() * tensor.element_size() for tensor in found.values()) == len(GOOD) - 8 - HEADER_BYTES


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("content", [b"", b"no model", GOOD, pickled()], ids=["empty", "text", "weights", "pickle"])
def test_what_is_no_model_has_no_weights(tmp_path, kind, content) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = tmp_path / f"epoch.{kind}"
    path.write_bytes(content)
    with pytest.raises(Error) as caught:
        open_weights(path, kind, scratch)
    assert caught.value.reason in (Reason.MODEL_MALFORMED, Reason.MODEL_UNSAFE, Reason.MODEL_UNSUPPORTED)
    assert list(scratch.iterdir()) == []


def test_a_model_file_gives_its_parameters_and_buffers(tmp_path, save_pt2) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    (tmp_path / "epoch.pt2").write_bytes(save_pt2(net, torch.zeros(2, 3)))
    found = open_weights(tmp_path / "epoch.pt2", "pt2", tmp_path)
    for name, tensor in net.state_dict().items():
        if name in found:
            torch.testing.assert_close(found[name], tensor.detach())
    assert {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"} <= found.keys()
    assert not any(tensor.requires_grad for tensor in found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["epoch.pt2"]
