"""Numbers that `ai.onnx.ml` nodes carry as attributes, made initialisers, so that they are parameters with a name.

    LinearClassifier, LinearRegressor   coefficients (E, F), intercepts (E,)
    SVMClassifier, SVMRegressor         coefficients (E, F), intercepts (E,), of a linear kernel
    Scaler                              offset, scale: statistics of the data, not trained
    Imputer                             imputed: likewise

They are called `<name of the node>.coefficients`, or after the last output of a node that has no name.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from undue_service.models.refusals import malformed, quoted, unsupported

from .predictions import ML_DOMAIN

Attributes = Mapping[str, onnx.AttributeProto]
_Lifted = Iterator[tuple[str, np.ndarray]]


def lift_attributes(graph: onnx.GraphProto) -> None:
    """Make initialisers, in place, of the numbers that nodes carry; they become further inputs of the node.

    Raises:
        InvalidArgument: MODEL_MALFORMED where they do not fit together, MODEL_UNSUPPORTED.
    """
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        lift = _LIFTED.get(node.op_type) if node.domain == ML_DOMAIN else None
        if lift is None:
            continue
        attributes = {attribute.name: attribute for attribute in node.attribute}
        owner = node.name or node.output[-1]
        for part, array in list(lift(node, attributes)):
            name = f"{owner}.{part}"
            while name in taken:
                name += "'"
            taken.add(name)
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
            node.input.append(name)


def _classifier(node: onnx.NodeProto, attributes: Attributes) -> _Lifted:
    """(E, F) and (E,), E the number of intercepts.

    skl2onnx writes the one score of two classes as a score and its negative: −w, w, −b, b. Then only w and b are
    trained; the node is marked `mirrored`.
    """
    intercepts = _floats(attributes, "intercepts")
    if not intercepts.size:
        raise unsupported(f"{_named(node)} has no intercepts, which onnxruntime does not run")
    weight = _matrix(node, _floats(attributes, "coefficients"), len(intercepts))
    if len(weight) == 2 and np.array_equal(weight[0], -weight[1]) and intercepts[0] == -intercepts[1]:
        weight, intercepts = weight[1:], intercepts[1:]
        node.attribute.append(helper.make_attribute("mirrored", 1))
    _drop(node, "coefficients", "intercepts")
    yield "coefficients", weight
    yield "intercepts", intercepts


def _regressor(node: onnx.NodeProto, attributes: Attributes) -> _Lifted:
    """(E, F) and (E,), E = `targets`; no intercepts where there is another number of them, as in onnxruntime."""
    targets = attributes["targets"].i if "targets" in attributes else 1
    intercepts = _floats(attributes, "intercepts")
    if intercepts.size not in (0, targets):
        raise malformed(f"{_named(node)} has {intercepts.size} intercepts for {targets} targets")
    weight = _matrix(node, _floats(attributes, "coefficients"), targets)
    _drop(node, "coefficients", "intercepts")
    yield "coefficients", weight
    if intercepts.size:
        yield "intercepts", intercepts


def _vector_regressor(node: onnx.NodeProto, attributes: Attributes) -> _Lifted:
    """W = Σ_i α_i v_i over the support vectors v_i; w itself where there are none. b = ρ."""
    alpha, rho = _floats(attributes, "coefficients"), _floats(attributes, "rho")
    count = attributes["n_supports"].i if "n_supports" in attributes else 0
    if count:
        _require_linear_kernel(node, attributes)
        vectors = _matrix(node, _floats(attributes, "support_vectors"), count)
        if len(alpha) != count:
            raise malformed(f"{_named(node)} has {len(alpha)} coefficients for {count} support vectors")
        weight = _summed(alpha[None] @ vectors.astype(np.float64))
    else:
        weight = alpha[None]
    if rho.size != 1:
        raise malformed(f"{_named(node)} has {rho.size} numbers for rho, not one")
    _drop(node, "coefficients", "support_vectors", "rho")
    yield "coefficients", weight
    yield "intercepts", rho


def _vector_classifier(node: onnx.NodeProto, attributes: Attributes) -> _Lifted:
    """One w and b for each pair of classes i < j: w_ij = Σ α v over the support vectors of i and of j, b_ij = ρ_ij.

    The vectors are in the order of the classes; α of one of class i against j lies in row j−1, of j against i in row i.
    A positive score stands for class i. Of two classes the one pair is turned round: w and b of the second class.
    Without support vectors the coefficients are one w for each class, and ρ is the b of all.
    """
    alpha, rho = _floats(attributes, "coefficients"), _floats(attributes, "rho")
    counts = np.asarray(attributes["vectors_per_class"].ints if "vectors_per_class" in attributes else (), np.int64)
    classes = next((len(a.ints) + len(a.strings) for n, a in attributes.items() if n.startswith("classlabels")), 0)
    if (counts < 0).any() or not 1 <= classes <= _MAX_CLASSES:
        raise malformed(f"{_named(node)} has {classes} classes and {counts.tolist()[:5]} vectors of each")
    if counts.sum() == 0:
        weight = _matrix(node, alpha, classes)
        if rho.size != 1:
            raise unsupported(f"{_named(node)} has {rho.size} numbers for rho, of which onnxruntime reads one")
        _drop(node, "coefficients", "rho")
        yield "coefficients", weight
        yield "intercepts", rho
        return
    _require_linear_kernel(node, attributes)
    if any(name in attributes and attributes[name].floats for name in ("prob_a", "prob_b")):
        raise unsupported(
            f"{_named(node)} fits its probabilities by an iteration with an early stop, which has no gradient; export "
            "the model with SVC(probability=False)"
        )
    vectors = _matrix(node, _floats(attributes, "support_vectors"), int(counts.sum())).astype(np.float64)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    if len(counts) != classes or alpha.size != (classes - 1) * len(vectors) or rho.size != len(pairs):
        raise malformed(f"{_named(node)} has coefficients of another number than its classes and support vectors")
    alpha, ends = alpha.reshape(classes - 1, -1), np.cumsum(counts)
    of = [slice(int(end - count), int(end)) for end, count in zip(ends, counts, strict=True)]
    weight = np.stack([alpha[j - 1, of[i]] @ vectors[of[i]] + alpha[i, of[j]] @ vectors[of[j]] for i, j in pairs])
    _drop(node, "coefficients", "support_vectors", "rho")
    node.attribute.append(helper.make_attribute("pairs", len(pairs)))
    sign = -1 if len(pairs) == 1 else 1
    yield "coefficients", sign * _summed(weight)
    yield "intercepts", sign * rho


def _scaler(node: onnx.NodeProto, attributes: Attributes) -> _Lifted:
    offset, scale = _floats(attributes, "offset"), _floats(attributes, "scale")
    _drop(node, "offset", "scale")
    yield "offset", offset if offset.size else np.zeros(1)
    yield "scale", scale if scale.size else np.ones(1)


def _imputer(node: onnx.NodeProto, attributes: Attributes) -> _Lifted:
    values = _floats(attributes, "imputed_value_floats")
    if values.size:
        _drop(node, "imputed_value_floats")
        yield "imputed", values


_LIFTED: Mapping[str, Callable[[onnx.NodeProto, Attributes], _Lifted]] = {
    "Imputer": _imputer,
    "LinearClassifier": _classifier,
    "LinearRegressor": _regressor,
    "SVMClassifier": _vector_classifier,
    "SVMRegressor": _vector_regressor,
    "Scaler": _scaler,
}
_MAX_CLASSES = 1000
"""Of an SVMClassifier: it has a weight for each pair."""


def _require_linear_kernel(node: onnx.NodeProto, attributes: Attributes) -> None:
    kernel = attributes["kernel_type"].s.decode(errors="replace") if "kernel_type" in attributes else "LINEAR"
    if kernel != "LINEAR":
        raise unsupported(
            f"{_named(node)} has the kernel {quoted(kernel)}: its coefficients are dual variables, one for each "
            "support vector, and not parameters of a loss over all rows; supported is the linear kernel"
        )


def _floats(attributes: Attributes, name: str) -> np.ndarray:
    return np.asarray(attributes[name].floats if name in attributes else (), np.float32)


def _matrix(node: onnx.NodeProto, flat: np.ndarray, rows: int) -> np.ndarray:
    if rows < 1 or not flat.size or flat.size % rows:
        raise malformed(f"{_named(node)} has {flat.size} numbers for {rows} rows of a matrix")
    return flat.reshape(rows, -1)


def _summed(weight: np.ndarray) -> np.ndarray:
    return weight.astype(np.float32)


def _drop(node: onnx.NodeProto, *names: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {quoted(node.name or ', '.join(node.output))}"
