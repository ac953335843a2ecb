"""A failed comparison names the first tensor in which onnxruntime and the program differ."""

import numpy as np
import pytest
import torch
from onnx.helper import make_function, make_node, make_opsetid

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.models import parity
from undue_service.models.onnx.operators import OPERATORS
from undue_service.models.onnx.values import dense

W = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
NODES = [
    make_node("Gemm", ["x", "w"], ["first"]),
    make_node("Tanh", ["first"], ["second"]),
    make_node("MatMul", ["second", "w"], ["third"]),
    make_node("Sigmoid", ["third"], ["fourth"]),
    make_node("Add", ["fourth", "first"], ["y"]),
]


def wrong(monkeypatch, name, change):
    right = OPERATORS[name]
    monkeypatch.setitem(OPERATORS, name, lambda node: change(dense(right(node))))


@pytest.fixture
def failing(open_bytes, onnx_bytes):
    def fail(nodes=NODES, x=X, **options):
        opened = open_bytes(onnx_bytes(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, {"w": W}, **options))
        with pytest.raises(FailedPrecondition) as caught:
            parity(opened, {"x": x})
        assert caught.value.reason is Reason.PARITY_FAILED
        return caught.value

    return fail


@pytest.mark.parametrize(
    ("operator", "tensor"),
    [("Gemm", "first"), ("Tanh", "second"), ("MatMul", "third"), ("Sigmoid", "fourth"), ("Add", "y")],
)
def test_the_first_tensor_is_named_with_both_numbers(operator, tensor, failing, monkeypatch):
    wrong(monkeypatch, operator, lambda y: y + 0.25)
    error = failing()
    assert error.metadata == {"output": "y", "tensor": tensor, "operator": operator}
    assert f"they part at the tensor '{tensor}', which {operator} computes: " in error.message
    theirs, ours = error.message.split("computes: ")[1].split("; this")[0].split(" by onnxruntime and ")
    assert float(ours.removesuffix(" by the program")) - float(theirs) == pytest.approx(0.25, abs=1e-6)


def test_a_wrong_shape_is_named(failing, monkeypatch):
    wrong(monkeypatch, "Add", lambda y: y[..., None])
    error = failing()
    assert error.metadata["tensor"] == "y"
    assert "of the shape (1, 4) by onnxruntime and (1, 4, 1) by the program" in error.message


def test_numbers_that_are_no_numbers_in_both_are_passed_over(failing, monkeypatch):
    nodes = [
        make_node("Sub", ["x", "x"], ["zero"]),
        make_node("Div", ["zero", "zero"], ["none"]),
        make_node("Max", ["x", "x"], ["kept"]),
        make_node("Tanh", ["kept"], ["second"]),
        make_node("Equal", ["none", "none"], ["never"]),
        make_node("Where", ["never", "none", "second"], ["picked"]),
        make_node("Gemm", ["picked", "w"], ["y"]),
    ]
    wrong(monkeypatch, "Gemm", lambda y: y * torch.tensor(float("nan")))
    assert failing(nodes).metadata["tensor"] == "y"


def test_what_happens_inside_a_function_is_named_by_what_it_gives(failing, monkeypatch):
    body = make_function(
        "mine", "Squash", ["a"], ["b"],
        [make_node("Tanh", ["a"], ["t"]), make_node("Neg", ["t"], ["b"])], [make_opsetid("", 20)],
    )  # fmt: skip
    nodes = [make_node("Gemm", ["x", "w"], ["first"]), make_node("Squash", ["first"], ["y"], domain="mine")]
    wrong(monkeypatch, "Tanh", lambda y: y * 2)
    error = failing(nodes, functions=[body], opsets=[make_opsetid("mine", 1)])
    assert error.metadata == {"output": "y", "tensor": "y", "operator": "Squash"}


def test_a_difference_that_one_row_does_not_show_is_looked_for_around_it(failing, monkeypatch):
    wrong(monkeypatch, "Tanh", lambda y: y + (y.shape[0] > 1))
    assert failing().metadata["tensor"] == "second"
