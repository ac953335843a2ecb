"""Linear maps. Each becomes `torch.nn.functional.linear` of the stored parameter wherever one weight is constant."""

import operator

import torch
from torch.nn import functional

from undue_service.models.onnx.values import Node, Product, Value, Weight, dense, linear_weight

from .arithmetic import are_shapes, combine
from .unsigned import modular


def gemm(node: Node) -> torch.Tensor:
    """Y = α A′B′ + β C, A′ = Aᵀ if transA, B′ = Bᵀ if transB; C is optional and broadcast (ONNX Gemm-13)."""
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    a = node.tensor(0)
    a = a.t() if node.attribute("transA", 0) else a
    b, c = node.value(1), node.value(2)
    weight = b if isinstance(b, Weight) else Weight(node.tensor(1))
    if node.attribute("transB", 0):
        weight = Weight(weight.stored, not weight.transposed)
    if c is None:
        product = functional.linear(a, linear_weight(weight))
        return product if alpha == 1.0 else alpha * product
    bias = node.tensor(2)
    if alpha == 1.0 and beta == 1.0 and bias.dim() == 1 and bias.shape[0] == weight.columns:
        return functional.linear(a, linear_weight(weight), bias)
    product = functional.linear(a, linear_weight(weight))
    product = product if alpha == 1.0 else alpha * product
    return product + (bias if beta == 1.0 else beta * bias)


def matmul(node: Node) -> torch.Tensor | Product:
    """Y = A B with NumPy's broadcasting. A 2-D weight on the right waits for a bias."""
    a, b = node.tensor(0), node.value(1)
    if isinstance(b, Weight) and b.stored.dim() == 2 and a.dim() >= 2:
        return Product(a, b)
    return torch.matmul(a, node.tensor(1))


def add(node: Node) -> Value:
    """Y = A + B with NumPy's broadcasting. MatMul + bias is one linear map."""
    left, right = node.value(0), node.value(1)
    if are_shapes(node):
        return combine(node, operator.add)
    for product, bias, name in (
        (left, right, node.proto.input[0]),
        (right, left, node.proto.input[1]),
    ):
        if isinstance(product, Product) and isinstance(bias, Weight) and node.is_read_once(name):
            vector = dense(bias)
            if vector.dim() == 1 and vector.shape[0] == product.weight.columns:
                return product.linear(vector)
    return modular(torch.add)(node.tensor(0), node.tensor(1))
