"""The operators of scikit-learn's converters against onnxruntime, and what they become."""

import time

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.helper import make_node, make_opsetid

from undue_service.domain.errors import Reason
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.models import parity, predict
from undue_service.models.onnx.lifting import lift_attributes
from undue_service.models.onnx.probabilities import simplify_scores

ML = make_opsetid("ai.onnx.ml", 3)
F = 4
X = np.random.default_rng(0).normal(size=(9, F)).astype(np.float32)
X[3] = 0


def drawn(*shape, seed=1):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def ml(operator, inputs, outputs, **attributes):
    return make_node(operator, inputs, outputs, domain="ai.onnx.ml", **attributes)


@pytest.fixture
def build(onnx_bytes):
    """Return the file of some nodes from x (n, F), with outputs of given types."""

    def made(nodes, outputs, weights=None, *, opset=13, producer="", x=("n", F), dtype=np.float32, ml_opset=3):
        content = onnx_bytes(
            nodes,
            {"x": list(x)},
            {},
            weights or {},
            opset=opset,
            dtype=dtype,
            opsets=[make_opsetid("ai.onnx.ml", ml_opset)],
        )
        model = onnx.load_model_from_string(content)
        model.ir_version = 8
        model.producer_name = producer
        for name, value in outputs.items():
            model.graph.output.append(helper.make_value_info(name, value))
        return model.SerializeToString()

    return made


def tensor(element=onnx.TensorProto.FLOAT, rank=2):
    return helper.make_tensor_type_proto(element, ["n", *[None] * (rank - 1)])


def maps(key=onnx.TensorProto.INT64):
    return helper.make_sequence_type_proto(
        helper.make_map_type_proto(key, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, []))
    )


SCORES = {"s": tensor()}
ONE = ["label", "s"]


def weights_of(opened):
    return {name: tuple(value.shape) for name, value in opened.exported.named_parameters()}


CLASSIFIERS = [
    (1, [0, 1], "NONE", 2), (1, [0, 1], "LOGISTIC", 2), (2, [0, 1], "NONE", 2), (2, [4, 7], "LOGISTIC", 2),
    (2, [0, 1], "SOFTMAX", 2), (3, [0, 1, 2], "NONE", 3), (3, [0, 1, 2], "LOGISTIC", 3), (3, [2, 0, 1], "SOFTMAX", 3),
]  # fmt: skip


MIRRORED = [(*one, True) for one in CLASSIFIERS if one[0] == 2]
"""A score and its negative."""


@pytest.mark.parametrize(
    ("rows", "labels", "transform", "columns", "mirrored"), [*((*one, False) for one in CLASSIFIERS), *MIRRORED]
)
def test_linear_classifier(rows, labels, transform, columns, mirrored, build, open_bytes):
    W, b = drawn(rows, F), drawn(rows)
    if mirrored:
        W[0], b[0] = -W[1], -b[1]
    node = ml(
        "LinearClassifier", ["x"], ONE, name="clf", coefficients=W.ravel(), intercepts=b, classlabels_ints=labels,
        post_transform=transform,
    )  # fmt: skip
    opened = open_bytes(build([node], SCORES))
    assert predict(opened, {"x": X})["s"].shape == (len(X), columns)
    assert parity(opened, {"x": X}) <= 1e-6
    kept = 1 if mirrored else rows
    assert weights_of(opened) == {"clf.coefficients": (kept, F), "clf.intercepts": (kept,)}


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"classlabels_ints": [0, 1], "post_transform": "SOFTMAX"}, "onnxruntime ignores"),
        ({"post_transform": "LOGISTIC"}, "onnxruntime ignores"),
        ({"classlabels_ints": [0, 1], "post_transform": "PROBIT"}, "onnxruntime ignores"),
        ({"classlabels_ints": [0, 1], "intercepts": None}, "no intercepts"),
    ],
)
def test_classifiers_that_mean_nothing_certain_are_refused(attributes, says, build, refusal):
    given = {"coefficients": drawn(F), "intercepts": [0.5], **attributes}
    node = ml("LinearClassifier", ["x"], ONE, **{name: value for name, value in given.items() if value is not None})
    assert says in refusal(build([node], SCORES), Reason.MODEL_UNSUPPORTED)


@pytest.mark.parametrize("transform", ["PROBIT", "SOFTMAX_ZERO"])
def test_transforms_without_a_use_are_refused(transform, build, refusal):
    node = ml("LinearClassifier", ["x"], ONE, coefficients=drawn(2 * F), intercepts=[0.1, 0.2],
              classlabels_ints=[0, 1], post_transform=transform)  # fmt: skip
    assert "NONE, LOGISTIC and SOFTMAX" in refusal(build([node], SCORES), Reason.MODEL_UNSUPPORTED)


def test_coefficients_that_do_not_fit_are_refused(build, refusal):
    node = ml("LinearClassifier", ["x"], ONE, coefficients=drawn(7), intercepts=[0.1, 0.2], classlabels_ints=[0, 1])
    refusal(build([node], SCORES), Reason.MODEL_MALFORMED)
    node = ml("LinearClassifier", ["x"], ONE, coefficients=drawn(6), intercepts=[0.1, 0.2], classlabels_ints=[0, 1])
    assert "3 features" in refusal(build([node], SCORES), Reason.MODEL_MALFORMED)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize(("targets", "has_intercepts"), [(1, True), (1, False), (3, True), (3, False)])
def test_linear_regressor(targets, has_intercepts, transform, build, open_bytes, refusal):
    intercepts = {"intercepts": drawn(targets)} if has_intercepts else {}
    node = ml("LinearRegressor", ["x"], ["s"], name="fit", coefficients=drawn(targets * F), targets=targets,
              post_transform=transform, **intercepts)  # fmt: skip
    content = build([node], SCORES)
    if targets == 1 and transform != "NONE":
        assert "ignores" in refusal(content, Reason.MODEL_UNSUPPORTED)
        return
    opened = open_bytes(content)
    assert parity(opened, {"x": X}) <= 1e-6
    assert weights_of(opened)["fit.coefficients"] == (targets, F)


VECTORS = {"kernel_type": "LINEAR", "kernel_params": [0.1, 0.0, 3.0]}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(1, 4), min_size=2, max_size=4), seed=st.integers(0, 99), data=st.data())
def test_support_vectors_of_a_linear_kernel_become_weights(counts, seed, data, build, open_bytes):
    classes, vectors = len(counts), sum(counts)
    transform = data.draw(st.sampled_from(["NONE"] if classes == 2 else ["NONE", "LOGISTIC", "SOFTMAX"]))
    pairs = classes * (classes - 1) // 2
    node = ml(
        "SVMClassifier", ["x"], ONE, name="svc", coefficients=drawn((classes - 1) * vectors, seed=seed),
        support_vectors=drawn(vectors * F, seed=seed), vectors_per_class=counts, rho=drawn(pairs, seed=seed),
        classlabels_ints=list(range(classes)), post_transform=transform, **VECTORS,
    )  # fmt: skip
    opened = open_bytes(build([node], SCORES))
    assert parity(opened, {"x": X}) <= 1e-5
    assert weights_of(opened) == {"svc.coefficients": (pairs, F), "svc.intercepts": (pairs,)}
    assert predict(opened, {"x": X})["s"].shape == (len(X), 1 if classes == 2 else pairs)
    assert any("decision function" in text for text in opened.warnings) == (classes == 2)


def test_the_decision_function_is_that_of_the_label(build, open_bytes):
    node = ml(
        "SVMClassifier", ["x"], ONE, coefficients=drawn(5), support_vectors=drawn(5 * F), vectors_per_class=[3, 2],
        rho=[0.3], classlabels_ints=[0, 1], **VECTORS,
    )  # fmt: skip
    content = build([node], {"label": tensor(onnx.TensorProto.INT64, 1), "s": tensor()})
    opened = open_bytes(content)
    import onnxruntime

    (labels,) = onnxruntime.InferenceSession(content).run(["label"], {"x": X})
    decision = predict(opened, {"x": X})["s"][:, 0]
    assert set(labels) == {0, 1}
    np.testing.assert_array_equal(labels, decision > 0)


def test_opposite_scores_that_something_reads_stay(build, open_bytes):
    node = ml(
        "SVMClassifier", ["x"], ["label", "d"], coefficients=drawn(5), support_vectors=drawn(5 * F),
        vectors_per_class=[3, 2], rho=[0.3], classlabels_ints=[0, 1], **VECTORS,
    )  # fmt: skip
    opened = open_bytes(build([node, make_node("Softmax", ["d"], ["s"], axis=1)], SCORES))
    assert predict(opened, {"x": X})["s"].shape == (len(X), 2)
    assert parity(opened, {"x": X}) <= 1e-6


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_classifier_of_weights_without_support_vectors(transform, build, open_bytes):
    node = ml(
        "SVMClassifier", ["x"], ONE, coefficients=drawn(3 * F), rho=[0.3], classlabels_strings=["a", "b", "c"],
        post_transform=transform, **VECTORS,
    )  # fmt: skip
    assert parity(open_bytes(build([node], SCORES)), {"x": X}) <= 1e-6


@pytest.mark.parametrize("vectors", [0, 3])
def test_support_vector_regressor(vectors, build, open_bytes):
    given = {"support_vectors": drawn(vectors * F), "n_supports": vectors} if vectors else {"n_supports": 0}
    node = ml("SVMRegressor", ["x"], ["s"], coefficients=drawn(vectors or F), rho=[0.3], **given, **VECTORS)
    opened = open_bytes(build([node], SCORES))
    assert parity(opened, {"x": X}) <= 1e-5
    assert set(weights_of(opened).values()) == {(1, F), (1,)}


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"kernel_type": "RBF"}, "dual variables"),
        ({"prob_a": [0.5], "prob_b": [0.1]}, "probability=False"),
        ({"post_transform": "LOGISTIC"}, "not supported"),
    ],
)
def test_support_vectors_that_are_refused(attributes, says, build, refusal):
    given = VECTORS | {
        "coefficients": drawn(5), "support_vectors": drawn(5 * F), "vectors_per_class": [3, 2], "rho": [0.3],
        "classlabels_ints": [0, 1],
    } | attributes  # fmt: skip
    assert says in refusal(build([ml("SVMClassifier", ["x"], ONE, **given)], SCORES), Reason.MODEL_UNSUPPORTED)


@pytest.mark.parametrize(("attributes", "says"), [({"one_class": 1}, "one-class"), ({"kernel_type": "POLY"}, "dual")])
def test_regressors_that_are_refused(attributes, says, build, refusal):
    given = VECTORS | {
        "coefficients": drawn(3), "support_vectors": drawn(3 * F), "n_supports": 3, "rho": [0.3],
    } | attributes  # fmt: skip
    assert says in refusal(build([ml("SVMRegressor", ["x"], ["s"], **given)], SCORES), Reason.MODEL_UNSUPPORTED)


HOLES = X.copy()
HOLES[1, 2], HOLES[4] = np.nan, 0
FEATURES = {
    "scaler": [ml("Scaler", ["x"], ["s"], offset=drawn(F), scale=drawn(F))],
    "scaler of one number": [ml("Scaler", ["x"], ["s"], offset=[0.5], scale=[2.0])],
    "normalizer MAX": [ml("Normalizer", ["x"], ["s"], norm="MAX")],
    "normalizer L1": [ml("Normalizer", ["x"], ["s"], norm="L1")],
    "normalizer L2": [ml("Normalizer", ["x"], ["s"], norm="L2")],
    "binarizer": [ml("Binarizer", ["x"], ["s"], threshold=0.25)],
    "imputer of zeros": [ml("Imputer", ["x"], ["s"], imputed_value_floats=drawn(F), replaced_value_float=0.0)],
    "imputer of one number": [ml("Imputer", ["x"], ["s"], imputed_value_floats=[0.5], replaced_value_float=0.0)],
    "feature vectorizer": [
        make_node("Tanh", ["x"], ["t"]), ml("FeatureVectorizer", ["x", "t"], ["s"], inputdimensions=[F, F]),
    ],
    "array feature extractor": [ml("ArrayFeatureExtractor", ["x", "places"], ["s"])],
    "label encoder": [
        make_node("Floor", ["x"], ["f"]),
        ml("LabelEncoder", ["f"], ["s"], keys_floats=[-1.0, 0.0, 1.0], values_floats=[3.0, 4.0, 5.0], default_float=9.),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
def test_features(name, build, open_bytes):
    weights = {"places": np.array([2, 0, 2], np.int64)} if "extractor" in name else {}
    opened = open_bytes(build(FEATURES[name], SCORES, weights))
    assert parity(opened, {"x": X}) <= 1e-6
    assert weights_of(opened) == {}


def test_missing_numbers_are_imputed(build, open_bytes):
    nodes = [ml("Imputer", ["x"], ["s"], name="fill", imputed_value_floats=drawn(F), replaced_value_float=np.nan)]
    opened = open_bytes(build(nodes, SCORES))
    assert parity(opened, {"x": HOLES}) == 0
    assert predict(opened, {"x": HOLES})["s"][1, 2] == drawn(F)[2]


@pytest.mark.parametrize("zeros", [0, 1])
def test_categories(zeros, build, open_bytes):
    nodes = [ml("OneHotEncoder", ["x"], ["s"], cats_int64s=[3, 1, 5], zeros=zeros)]
    opened = open_bytes(build(nodes, {"s": tensor(rank=3)}, dtype=np.int64))
    known = np.array([[1, 3, 5, 1], [5, 5, 3, 3]])
    assert parity(opened, {"x": known}) == 0
    unknown = predict(opened, {"x": known + 1})["s"]
    assert (unknown == 0).all() if zeros else np.isnan(unknown).all()


@pytest.mark.parametrize(
    ("keys", "kind"), [([7, 2, 5], onnx.TensorProto.INT64), (["b", "c", "a"], onnx.TensorProto.STRING)]
)
def test_maps_are_the_tensors_that_they_were_made_of(keys, kind, build, open_bytes):
    name = "classlabels_int64s" if kind == onnx.TensorProto.INT64 else "classlabels_strings"
    labels = {"classlabels_ints": [0, 1, 2]}
    nodes = [
        ml("LinearClassifier", ["x"], ["label", "p"], coefficients=drawn(3 * F), intercepts=drawn(3), **labels),
        ml("ZipMap", ["p"], ["s"], **{name: keys}),
    ]
    opened = open_bytes(build(nodes, {"label": tensor(onnx.TensorProto.INT64, 1), "s": maps(kind)}))
    assert opened.outputs == ("s",)
    assert parity(opened, {"x": X}) <= 1e-6
    (warning,) = opened.warnings
    assert "'label'" in warning


def test_what_only_labels_need_is_left_out(build, open_bytes):
    nodes = [
        make_node("Gemm", ["x", "w"], ["s"]),
        make_node("ArgMax", ["s"], ["best"], axis=1, keepdims=0),
        ml("LabelEncoder", ["best"], ["name"], keys_int64s=[0, 1], values_strings=["no", "yes"]),
    ]
    opened = open_bytes(build(nodes, {"name": tensor(onnx.TensorProto.STRING, 1), "s": tensor()}, {"w": drawn(F, 2)}))
    assert opened.outputs == ("s",)
    assert parity(opened, {"x": X}) <= 1e-6


@pytest.mark.parametrize("operator", ["TreeEnsembleClassifier", "TreeEnsembleRegressor"])
def test_tree_ensembles_are_refused_with_the_reason(operator, build, refusal, open_bytes):
    outputs = ["label", "s"] if operator.endswith("Classifier") else ["s"]
    message = refusal(build([ml(operator, ["x"], outputs)], SCORES), Reason.UNSUPPORTED_OPERATORS)
    assert f"ai.onnx.ml::{operator}" in message
    assert "constant almost everywhere" in message


def objective(opened, loss):
    program = Program.from_exported(opened.exported, input_names=["x"], output_names=opened.outputs)
    return Objective(program, ObjectiveSpec(loss, temperature=0.5 if loss == "smooth_hinge" else 0.0))


HIDDEN = [make_node("Gemm", ["x", "w"], ["h"]), make_node("Sigmoid", ["h"], ["p"])]


def joined(number):
    return [*HIDDEN, make_node("Sub", [number, "p"], ["q"]), make_node("Concat", ["q", "p"], ["s"], axis=1)]


def over_sum(value):
    total = make_node("ReduceSum", [value, "along"], ["t"])
    return [*HIDDEN, total, make_node("Div", [value, "t"], ["s"])]


def normalised(nodes, norm):
    return [*nodes, ml("Normalizer", ["p"], ["s"], norm=norm)]


ENDINGS = {
    "1 − p and p": (joined("one"), 1, True),
    "2 − p and p": (joined("two"), 1, False),
    "of two columns": (joined("one"), 2, False),
    "p over its sum": (over_sum("p"), 3, True),
    "scores over their sum": (over_sum("h"), 3, False),
    "p over its length": (
        [*HIDDEN, make_node("ReduceL2", ["p"], ["t"], axes=[1]), make_node("Div", ["p", "t"], ["s"])], 3, False,
    ),
    "normalised": (normalised(HIDDEN, "L1"), 3, True),
    "normalised to length 1": (normalised(HIDDEN, "L2"), 3, False),
    "normalised twice": (normalised([HIDDEN[0], make_node("Softmax", ["h"], ["p"], axis=1)], "L1"), 3, True),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_probabilities_in_several_steps_are_looked_behind(name, build, open_bytes):
    nodes, columns, is_softmax = ENDINGS[name]
    weights = {
        "w": drawn(F, columns), "one": np.float32(1), "two": np.float32(2), "along": np.array([1], np.int64),
    }  # fmt: skip
    weights = {key: value for key, value in weights.items() if any(key in node.input for node in nodes)}
    opened = open_bytes(build(nodes, SCORES, weights))
    assert parity(opened, {"x": X + 0.1}) <= 1e-6
    assert objective(opened, "cross_entropy").output_activation == ("softmax" if is_softmax else "")


def test_a_score_and_its_negative_are_one_score(build, open_bytes):
    nodes = [
        make_node("Gemm", ["x", "w"], ["h"]), make_node("Mul", ["h", "minus"], ["n"]),
        make_node("Concat", ["n", "h"], ["s"], axis=1),
    ]  # fmt: skip
    opened = open_bytes(build(nodes, SCORES, {"w": drawn(F, 1), "minus": np.float32(-1)}))
    found = objective(opened, "smooth_hinge")
    assert (found.output_activation, found.outputs_per_row) == ("opposite_scores", 1)
    assert found.head is not None


@pytest.mark.parametrize(
    ("producer", "trained"), [("skl2onnx", {"w", "b"}), ("", {"mean", "basis", "w", "b", "scale"})]
)
def test_what_prepares_features_is_no_weight_of_a_pipeline(producer, trained, build, open_bytes):
    nodes = [
        make_node("Sub", ["x", "mean"], ["c"]), make_node("Div", ["c", "scale"], ["d"]),
        make_node("MatMul", ["d", "basis"], ["z"]), make_node("MatMul", ["z", "w"], ["m"]),
        make_node("Add", ["m", "b"], ["s"]),
    ]  # fmt: skip
    weights = {"mean": drawn(F), "scale": drawn(F), "basis": drawn(F, 2), "w": drawn(2, 3), "b": drawn(3)}
    opened = open_bytes(build(nodes, SCORES, weights, producer=producer))
    assert set(weights_of(opened)) == trained
    assert any("'basis' as constants" in text for text in opened.warnings) == (producer == "skl2onnx")


def test_names_of_coefficients_collide_with_nothing(build, open_bytes):
    node = ml("LinearRegressor", ["x"], ["h"], name="fit", coefficients=drawn(F), intercepts=[0.5])
    nodes = [node, make_node("Add", ["h", "fit.coefficients"], ["s"])]
    opened = open_bytes(build(nodes, SCORES, {"fit.coefficients": drawn(1)}))
    assert weights_of(opened) == {"fit.coefficients": (1,), "fit.coefficients'": (1, F), "fit.intercepts": (1,)}
    assert parity(opened, {"x": X}) <= 1e-6


def test_long_chains_of_scores_are_read_in_linear_time(build):
    nodes, last = [make_node("Gemm", ["x", "w"], ["p0"]), make_node("Sigmoid", ["p0"], ["p1"])], "p1"
    for place in range(4000):
        nodes.append(make_node("Identity", [last], [f"i{place}"]))
        nodes.append(ml("Normalizer", [f"i{place}"], [f"n{place}"], norm="L1"))
        last = f"i{place}"
    nodes.append(make_node("Identity", ["n3999"], ["s"]))
    start = time.monotonic()
    model = onnx.load_model_from_string(build(nodes, SCORES, {"w": drawn(F, 3)}))
    lift_attributes(model.graph)
    simplify_scores(model)
    assert [node.op_type for node in model.graph.node].count("Softmax") == 4000
    assert time.monotonic() - start < 10
