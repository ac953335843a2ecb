"""A scikit-learn pipeline through the whole service, from its ONNX file to scores."""

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import undue

L2 = 0.05
ROWS = 300


@pytest.fixture(scope="module")
def flags(client, digits):
    """Digits below 5 against the others: float32 pixels, a data set of them."""
    X, y = (digits.X_train[:ROWS] * 16).astype(np.float32), (digits.y_train[:ROWS] < 5).astype(np.int64)
    return X, y, client.datasets.register("flags", undue.Arrays(inputs=X, targets=y))


def save(model, X, path):
    path.write_bytes(to_onnx(model, X[:1]).SerializeToString())
    return path


def test_a_logistic_regression_behind_a_scaler_is_audited(client, flags, tmp_path):
    X, y, train = flags
    # C of scikit-learn is 1 / (n · l2); its intercept has no L2 term.
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (ROWS * L2), tol=1e-9, max_iter=2000)).fit(X, y)
    model = client.models.register(
        "pipeline",
        save(pipeline, X, tmp_path / "pipeline.onnx"),
        objective=undue.Objective("binary_logistic", l2=L2, l2_exclude=["*.intercepts"]),
        sample=train,
    )
    report = model.report
    shapes = {one.name: (one.shape, one.uses, one.l2) for one in report.parameters}
    assert shapes == {
        "LinearClassifier.coefficients": ((1, 64), ("linear",), True),
        "LinearClassifier.intercepts": ((1,), ("linear",), False),
    }
    assert (report.output, report.output_activation) == ("output_probability", "two_class_softmax")
    assert report.linear_head
    assert report.parity.max_abs_difference <= 1e-5
    assert report.stationarity.relative <= 1e-4
    assert any("'output_label'" in text for text in report.warnings)

    scores = client.influence(model, train=train, test=train, rows=range(4), method="exact", top_k=None).result().scores
    again = pipeline[-1].__class__(C=1 / ((ROWS - 1) * L2), tol=1e-9, max_iter=2000)
    worst = int(np.abs(scores[0]).argmax())
    kept = np.arange(ROWS) != worst
    z = pipeline[0].transform(X)
    without = again.fit(z[kept], y[kept])

    def cost(fitted):
        return -fitted.predict_log_proba(z[:1])[0, y[0]]

    assert scores[0, worst] == pytest.approx(cost(without) - cost(pipeline[-1]), rel=0.1)


def test_a_forest_is_refused_with_the_reason(client, flags, tmp_path):
    X, y, _ = flags
    forest = RandomForestClassifier(3, max_depth=3, random_state=0).fit(X, y)
    with pytest.raises(undue.Error) as caught:
        client.models.register(
            "forest", save(forest, X, tmp_path / "forest.onnx"), objective=undue.Objective("cross_entropy")
        )
    assert caught.value.reason == "UNSUPPORTED_OPERATORS"
    assert caught.value.metadata["operators"] == "ai.onnx.ml::TreeEnsembleClassifier"
    assert "constant almost everywhere" in str(caught.value)
