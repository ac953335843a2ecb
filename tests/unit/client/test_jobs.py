import time

import grpc
import numpy as np
import pytest

import undue
from undue.v1 import jobs_pb2, tensors_pb2


def test_everything_asked_is_sent(fake, client) -> None:
    client.influence(
        "m",
        train="d",
        test="datasets/t/versions/3",
        rows=np.array([2, 0]),
        method="grad_dot",
        damping=0.5,
        leverage_correction=False,
    )
    sent = fake.requests[-1].job.influence
    assert (sent.model, sent.train, sent.test) == ("models/m", "datasets/d", "datasets/t/versions/3")
    assert (list(sent.rows), sent.method, sent.damping, sent.top_k) == ([2, 0], "grad_dot", 0.5, 10)
    assert sent.measurement == jobs_pb2.MEASUREMENT_LOSS
    assert sent.HasField("leverage_correction")
    assert not sent.leverage_correction


UNSET = ("damping", "top_k", "leverage_correction", "tolerance", "max_iterations", "rank", "normalization")


def test_what_is_left_out_stays_unset(fake, client) -> None:
    client.influence("m", train="d", test="d", top_k=None)
    sent = fake.requests[-1].job.influence
    assert not any(sent.HasField(name) for name in UNSET)
    assert (list(sent.rows), sent.method, list(sent.parameters), sent.ensemble, sent.seed) == ([], "", [], False, 0)
    client.self_influence("m", train="d")
    sent = fake.requests[-1].job.self_influence
    assert not any(sent.HasField(name) for name in UNSET)
    assert sent.method == ""


@pytest.mark.parametrize("job", ["influence", "self_influence"])
def test_settings_of_methods_are_sent(fake, client, job) -> None:
    over = {"test": "d"} if job == "influence" else {}
    settings = {"method": "m", "rank": np.int64(4), "ensemble": True, "seed": 2**63 - 1}
    getattr(client, job)("m", train="d", **over, **settings, parameters=["a.*", "b"], normalization="loss")
    sent = getattr(fake.requests[-1].job, job)
    assert (sent.method, sent.rank, sent.ensemble, sent.seed) == ("m", 4, True, 2**63 - 1)
    assert (list(sent.parameters), sent.normalization) == (["a.*", "b"], jobs_pb2.NORMALIZATION_LOSS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"damping": -1},
        {"damping": float("nan")},
        {"top_k": 0},
        {"tolerance": 1},
        {"tolerance": "small"},
        {"max_iterations": 0},
        {"max_iterations": 1.5},
        {"rows": []},
        {"rows": [-1]},
        {"measurement": "vibes"},
        {"aggregate": "median"},
        {"parameters": "fc.*"},
        {"parameters": [1]},
        {"rank": 0},
        {"rank": 1.5},
        {"normalization": "l2"},
        {"seed": -1},
        {"seed": float("nan")},
        {"train": "models/m"},
    ],
)
def test_wrong_arguments_never_leave(fake, client, wrong) -> None:
    with pytest.raises(undue.InvalidArgument):
        client.influence("m", **({"train": "d", "test": "d"} | wrong))
    assert not fake.calls


def test_a_watch_comes_back_after_it_broke(fake, client) -> None:
    fake.broken_watches, fake.ended_watches = 2, 1
    job = client.jobs.get("jobs/a")
    seen = [(step.state, step.done) for step in job.watch()]
    assert seen == [("RUNNING", 1), ("RUNNING", 2), ("RUNNING", 3), ("RUNNING", 4), ("SUCCEEDED", 4)]
    assert job.state is undue.JobState.SUCCEEDED
    assert job.progress.fraction == 1.0


def test_a_watch_may_be_left_early(fake, client) -> None:
    fake.end_state = None
    job = client.jobs.get("a")
    for step in job.watch():
        assert step.stage == "scoring"
        break
    assert client.server_info().version == "9.9"


def test_results_of_all_pages(fake, client, explanation) -> None:
    fake.explanations = [explanation(row) for row in (4, 2, 9)]
    result = client.jobs.get("a").result()
    assert isinstance(result, undue.InfluenceResult)
    assert [each.row for each in result.explanations] == [4, 2, 9]
    assert fake.calls["ListExplanations"] == 3
    [first, second], [third] = result.explanations[0].helpful, result.explanations[0].harmful
    assert (first.row, first.id, first.score, first.target, first.prediction) == (11, "a", 0.5, 5, None)
    assert (second.score, third.score) == (0.25, -0.75)
    assert result.scores is None
    assert (result.diagnostics.scale, result.diagnostics.damping_source, result.diagnostics.dtype) == (
        "removal",
        "given",
        "float64",
    )


def block(first: int, array: np.ndarray) -> jobs_pb2.ScoreBlock:
    dtype = {"float32": tensors_pb2.DATA_TYPE_FLOAT32, "float64": tensors_pb2.DATA_TYPE_FLOAT64}[array.dtype.name]
    return jobs_pb2.ScoreBlock(
        first=first, scores=tensors_pb2.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())
    )


def test_score_matrices_are_put_together(fake, client, explanation) -> None:
    scores = np.random.default_rng(0).normal(size=(3, 5)).astype("<f4")
    fake.explanations = [explanation(row) for row in range(3)]
    fake.scores = [block(0, scores[:2]), block(2, scores[2:])]
    fake.unavailable["ReadScores"] = 2
    result = client.jobs.get("matrix").result()
    assert result.scores.dtype == np.float32
    assert np.array_equal(result.scores, scores)


@pytest.mark.parametrize(
    "blocks",
    [
        [block(0, np.zeros((1, 2), "f4"))],
        [block(1, np.zeros((2, 2), "f4"))],
        [block(0, np.zeros((1, 2), "f4")), block(1, np.zeros((1, 3), "f4"))],
        [block(0, np.zeros((2, 2), "f8"))],
        [],
    ],
    ids=["short", "gap", "ragged", "float64", "none"],
)
def test_scores_that_do_not_fit_together_are_not_returned(fake, client, explanation, blocks) -> None:
    fake.explanations = [explanation(row) for row in range(2)]
    fake.scores = blocks
    with pytest.raises(undue.Internal):
        client.jobs.get("matrix").result()


def test_self_influence(fake, client, explanation) -> None:
    fake.explanations = [explanation(0)]
    result = client.jobs.get("self").result()
    assert isinstance(result, undue.SelfInfluenceResult)
    assert [each.row for each in result] == [11, 12]


def test_the_mean_over_rows_is_asked_for_and_read(fake, client) -> None:
    client.influence("m", train="d", test="d", aggregate="mean")
    assert fake.requests[-1].job.influence.aggregate == jobs_pb2.AGGREGATE_MEAN
    client.influence("m", train="d", test="d")
    assert not fake.requests[-1].job.influence.HasField("aggregate")
    fake.explanations = [jobs_pb2.Explanation(row=4, rows=[4, 2], loss=0.5)]
    [explained] = client.jobs.get("a").result()
    assert (explained.rows, explained.prediction, explained.target) == ((4, 2), None, None)


def fits() -> list[jobs_pb2.ListCounterfactualsResponse]:
    """A result whose first page has the test rows alone."""
    first = jobs_pb2.ListCounterfactualsResponse(rows=[5, 3], costs=[0.5, 1.5])
    second, third = jobs_pb2.ListCounterfactualsResponse(), jobs_pb2.ListCounterfactualsResponse()
    second.counterfactuals.add(index=0, without=[1, 2], changes=[0.25, -0.5], gradient_norm=1e-12, iterations=3)
    third.counterfactuals.add(index=1, without=[7], changes=[0.0, 0.125], gradient_norm=1e-11, iterations=2)
    return [first, second, third]


def test_retraining_is_asked_for_and_read(fake, client) -> None:
    without = [np.array([4, 2]), range(3), [9]]
    client.retrain("m", train="d", test="t", rows=[1], without=without, measurement="margin", tolerance=1e-8)
    sent = fake.requests[-1].job.retrain
    assert (sent.model, sent.train, sent.test) == ("models/m", "datasets/d", "datasets/t")
    assert [list(each.rows) for each in sent.without] == [[4, 2], [0, 1, 2], [9]]
    assert (list(sent.rows), sent.measurement, sent.tolerance) == ([1], jobs_pb2.MEASUREMENT_MARGIN, 1e-8)
    assert not sent.HasField("max_iterations")
    client.retrain("m", train="d", test="t", without=np.array([[1, 2], [3, 4]]))
    assert [list(each.rows) for each in fake.requests[-1].job.retrain.without] == [[1, 2], [3, 4]]
    assert list(fake.requests[-1].job.retrain.rows) == []

    fake.counterfactual_pages = fits()
    job = client.jobs.get("fits")
    assert job.spec["without"] == [[1, 2], [7]]
    result = job.result()
    assert isinstance(result, undue.RetrainResult)
    assert (result.rows, result.costs.tolist()) == ((5, 3), [0.5, 1.5])
    assert result.changes.tolist() == [[0.25, -0.5], [0.0, 0.125]]
    assert result.changes.dtype == result.costs.dtype == np.float64
    assert [(each.index, each.without, each.gradient_norm, each.iterations) for each in result] == [
        (0, (1, 2), 1e-12, 3),
        (1, (7,), 1e-11, 2),
    ]


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ([], "is empty"),
        ([1, 2, 3], r"\[\[i\] for i in rows\]"),
        (np.arange(3), r"\[\[i\] for i in rows\]"),
        ([[1], []], r"without\[1\]: names no row"),
        ([[1], 2], r"without\[1\]: 2 is not a set"),
        ([[1], "2"], r"without\[1\]"),
        ([[1, -1]], r"without\[0\]: -1"),
        ([[1, 2, 1]], "twice"),
        ([np.array([True, False])], "mask"),
    ],
)
def test_what_are_no_sets_of_rows_never_leave(fake, client, without, words) -> None:
    with pytest.raises(undue.InvalidArgument, match=words):
        client.retrain("m", train="d", test="d", without=without)
    assert not fake.calls


def test_a_failed_job_raises_what_it_failed_of(fake, client, status) -> None:
    fake.end_state = jobs_pb2.Job.STATE_FAILED
    fake.job_error = status(
        grpc.StatusCode.FAILED_PRECONDITION, "HESSIAN_SINGULAR", "use damping 1e-3", {"damping": "1e-3"}
    )
    job = client.jobs.get("a")
    with pytest.raises(undue.JobFailed, match="use damping 1e-3") as caught:
        job.result()
    error = caught.value
    assert (error.reason, error.metadata, error.request_id, error.job) == (
        "HESSIAN_SINGULAR",
        {"damping": "1e-3"},
        "request-7",
        "jobs/a",
    )
    assert job.failure == undue.Failure("HESSIAN_SINGULAR", "use damping 1e-3", {"damping": "1e-3"})
    assert [step.state for step in job.watch()][-1] == "FAILED"  # watching is not asking for the result


def test_a_cancelled_job_raises_cancelled(fake, client) -> None:
    job = client.jobs.get("a")
    job.cancel()
    assert job.state == "CANCELLED"
    with pytest.raises(undue.Cancelled):
        job.result()
    assert fake.calls["WatchJob"] == 0


def test_a_timeout_leaves_the_job_alone(fake, client) -> None:
    fake.end_state = None
    job = client.jobs.get("a")
    before = time.monotonic()
    with pytest.raises(undue.DeadlineExceeded, match="goes on"):
        job.result(timeout=0.2)
    assert 0.15 < time.monotonic() - before < 5
    assert fake.calls["CancelJob"] == 0


def test_validation_jobs_return_the_resource(client) -> None:
    assert client.jobs.get("validate-model").result().name == "models/m/versions/1"
    assert client.jobs.get("validate-dataset").result().name == "datasets/d/versions/1"


def test_a_job_prints_itself(client) -> None:
    job = client.jobs.get("a")
    assert repr(job) == "<InfluenceJob jobs/a influence QUEUED>"
    assert job.spec["top_k"] == 2
    assert job.spec["damping"] is None
    assert job.spec["measurement"] is None or job.spec["measurement"] == "unspecified"


def test_progress_bars(fake, client, explanation, capsys) -> None:
    fake.explanations = [explanation(0)]
    client.jobs.get("a").result(progress=False)
    assert capsys.readouterr().err == ""
    client.jobs.get("a").result(progress=True)
    assert "jobs/a: scoring" in capsys.readouterr().err
    client.jobs.get("a").result()  # standard error is no terminal here
    assert capsys.readouterr().err == ""
