"""scikit-learn pipelines through skl2onnx: the scores of a hand-written function with the pipeline's own weights.

The function is written from `coef_` and `intercept_` in float64; the file holds them in float32.
"""

import numpy as np
import pytest
import torch
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC, LinearSVR

from functional_twin import Twin, apart
from undue_service.domain.specs import ObjectiveSpec
from undue_service.engine.attribution import influence
from undue_service.engine.data import TensorRows
from undue_service.engine.objective import Objective
from undue_service.engine.program import Program
from undue_service.models import open_model, parity

L2, DAMPING, TRAIN, TEMPERATURE = 1e-2, 1e-1, 120, 0.5
X, SPECIES = load_iris(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(X))
X, SPECIES = X[ORDER].astype(np.float32), SPECIES[ORDER]
VIRGINICA = (SPECIES == 2).astype(np.int64)
AREA = (X[:, 0] * X[:, 1]).astype(np.float64)

pytestmark = pytest.mark.filterwarnings("ignore")


def tensors(**arrays):
    return {name: torch.as_tensor(np.asarray(array)).double() for name, array in arrays.items()}


def linear(model):
    return tensors(w=np.atleast_2d(model.coef_), b=np.atleast_1d(model.intercept_)), lambda w, z: w["w"] @ z + w["b"]


def one_against_rest(model):
    W, b = (
        np.concatenate([getattr(one, name).reshape(1, -1) for one in model.estimators_])
        for name in ("coef_", "intercept_")
    )
    return tensors(w=W, b=b[:, 0]), lambda w, z: torch.nn.functional.logsigmoid(w["w"] @ z + w["b"])


def network(model):
    parts = {}
    for place, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        parts |= {f"w{place}": W, f"b{place}": b}

    def f(w, z):
        for place in range(len(model.coefs_) - 1):
            z = torch.tanh(z @ w[f"w{place}"] + w[f"b{place}"])
        last = len(model.coefs_) - 1
        return z @ w[f"w{last}"] + w[f"b{last}"]

    return tensors(**parts), f


def cross_entropy(f, y):
    return torch.nn.functional.cross_entropy(f[None], y[None])


def binary_logistic(f, y):
    return torch.nn.functional.softplus((1 - 2 * y) * f[0])


def of_two_logits(f, y):
    return cross_entropy(torch.cat([torch.zeros_like(f), f]), y)


def squared_error(f, y):
    return 0.5 * ((f - y) ** 2).sum()


def smooth_hinge(f, y):
    return torch.nn.functional.softplus(1 - (2 * y - 1) * f[0], beta=1 / TEMPERATURE)


MLP = {"hidden_layer_sizes": (5, 4), "activation": "tanh", "max_iter": 300, "random_state": 0}
ROUTES = {
    "logistic": (LogisticRegression(), SPECIES, linear, "cross_entropy", cross_entropy),
    "logistic, two classes": (LogisticRegression(), VIRGINICA, linear, "binary_logistic", binary_logistic),
    "logistic, two classes as two outputs": (LogisticRegression(), VIRGINICA, linear, "cross_entropy", of_two_logits),
    "logistic, one against the rest": (
        OneVsRestClassifier(LogisticRegression()), SPECIES, one_against_rest, "cross_entropy", cross_entropy,
    ),
    "linear": (LinearRegression(), AREA, linear, "squared_error", squared_error),
    "LinearSVR": (LinearSVR(), AREA, linear, "squared_error", squared_error),
    "LinearSVC": (LinearSVC(), VIRGINICA, linear, "smooth_hinge", smooth_hinge),
    "LinearSVC, three classes": (LinearSVC(), SPECIES, linear, "cross_entropy", cross_entropy),
    "SVC": (SVC(kernel="linear"), VIRGINICA, linear, "smooth_hinge", smooth_hinge),
    "RidgeClassifier": (RidgeClassifier(), VIRGINICA, linear, "binary_logistic", binary_logistic),
    "MLPClassifier": (MLPClassifier(**MLP), SPECIES, network, "cross_entropy", cross_entropy),
    "MLPClassifier, two classes": (MLPClassifier(**MLP), VIRGINICA, network, "binary_logistic", binary_logistic),
    "MLPClassifier, two classes as two outputs": (
        MLPClassifier(**MLP), VIRGINICA, network, "cross_entropy", of_two_logits,
    ),
    "MLPRegressor": (MLPRegressor(**MLP), AREA, network, "squared_error", squared_error),
}  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("scaler", [StandardScaler, MinMaxScaler])
def test_scores_are_those_of_the_pipeline(route, scaler, tmp_path):
    model, y, written, name, loss = ROUTES[route]
    pipeline = make_pipeline(scaler(), model).fit(X[:TRAIN], y[:TRAIN])
    path = tmp_path / "pipeline.onnx"
    path.write_bytes(
        to_onnx(pipeline, X[:1], options={LinearSVC: {}} if isinstance(model, LinearSVC) else None).SerializeToString()
    )
    opened = open_model(path, "onnx", tmp_path)
    assert parity(opened, {"X": X}) <= 1e-5

    weights, f = written(pipeline[-1])
    z = torch.as_tensor(pipeline[0].transform(X.astype(np.float64)))
    y = torch.as_tensor(y)
    twin = Twin(f, loss, weights, z, y, TRAIN)
    program = Program.from_exported(
        opened.exported, input_names=["X"], output_names=opened.outputs
    ).to("cpu", torch.float64)  # fmt: skip
    objective = Objective(program, ObjectiveSpec(name, L2, temperature=TEMPERATURE if name == "smooth_hinge" else 0.0))
    assert len(objective.theta) == twin.gradients.shape[1]
    x = torch.from_numpy(X).double()
    rows = [TensorRows({"X": x[part]}, y[part]) for part in (slice(TRAIN), slice(TRAIN, None))]
    scores = {
        method: influence(objective, *rows, method=method, top_k=None, **options).scores
        for method, options in {
            "grad_dot": {},
            "gauss_newton": {"damping": DAMPING, "tolerance": 1e-10},
        }.items()
    }
    wanted = {"grad_dot": twin.grad_dot, "gauss_newton": twin.gauss_newton(DAMPING + L2)}
    figures = {method: apart(scores[method], wanted[method]) for method in wanted}
    print(route, scaler.__name__, {method: f"{value:.1e}" for method, value in figures.items()})
    assert max(figures.values()) <= 1e-5, figures
