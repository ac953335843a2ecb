"""Perturb jobs of the SDK and the command line: what is sent, and what is made of the answers."""

import json

import numpy as np
import pytest

import undue
from undue.cli.main import main
from undue.v1 import perturbation_pb2, tensors_pb2

DATA = {"train": "d", "test": "t"}
Spec = perturbation_pb2.PerturbSpec


def asked(fake):
    return fake.requests[-1].job.perturb


def test_what_is_left_open_is_left_to_the_service(fake, client) -> None:
    client.perturb("m", **DATA)
    sent = asked(fake)
    assert (sent.model, sent.train, sent.test) == ("models/m", "datasets/d", "datasets/t")
    assert (list(sent.attacks), sent.input, sent.bound) == ([], "", Spec.BOUND_SAME_8BIT)
    assert (sent.control, sent.confirm, sent.seed) == (True, True, 0)
    for name in ("candidates", "prefilter", "step", "momentum", "iterations", "radius", "level", "damping"):
        assert not sent.HasField(name), name


def test_what_is_asked_for_is_sent(fake, client) -> None:
    client.perturb(
        "m",
        **DATA,
        rows=np.array([3, 5]),
        candidates=2,
        candidate_rows=[7, 9],
        prefilter=50,
        input_name="image",
        step=0.5,
        momentum=0.25,
        iterations=20,
        bound="l2",
        radius=4,
        level=1.0,
        minimum=0,
        maximum=np.full((2, 3), 9.0),
        fixed=range(2),
        damping=0.25,
        control=False,
        confirm=False,
        seed=11,
        timeout_seconds=60,
    )
    sent = asked(fake)
    assert [list(one.rows) for one in sent.attacks] == [[3], [5]]
    assert (sent.candidates, list(sent.candidate_rows), sent.prefilter, sent.input) == (2, [7, 9], 50, "image")
    assert (sent.step, sent.momentum, sent.iterations) == (0.5, 0.25, 20)
    assert (sent.bound, sent.radius, sent.level) == (Spec.BOUND_L2, 4.0, 1.0)
    assert (list(sent.minimum), list(sent.maximum), list(sent.fixed)) == ([0.0], [9.0] * 6, [0, 1])
    assert (sent.damping, sent.control, sent.confirm, sent.seed) == (0.25, False, False, 11)
    assert fake.requests[-1].job.timeout_seconds == 60
    client.perturb("m", **DATA, rows=[[1, 2, 3], 4])
    assert [list(one.rows) for one in asked(fake).attacks] == [[1, 2, 3], [4]]
    client.estimate("m", **DATA, rows=[1], candidates=3)
    assert (asked(fake).candidates, fake.requests[-1].validate_only) == (3, True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rows": []}, "rows"),
        ({"rows": 3}, "rows"),
        ({"rows": [[1, 1]]}, "rows[0]"),
        ({"rows": [[1], []]}, "rows[1]"),
        ({"rows": [-1]}, "rows"),
        ({"candidates": 0}, "candidates"),
        ({"candidate_rows": [1, 1]}, "candidate_rows"),
        ({"prefilter": 0.5}, "prefilter"),
        ({"step": 0}, "step"),
        ({"momentum": 1}, "momentum"),
        ({"iterations": 0}, "iterations"),
        ({"bound": "l1"}, "bound"),
        ({"bound": "linf"}, "radius"),
        ({"bound": "linf", "radius": 0}, "radius"),
        ({"radius": 1.0}, "radius"),
        ({"level": float("inf")}, "level"),
        ({"minimum": "low"}, "minimum"),
        ({"maximum": [float("nan")]}, "maximum"),
        ({"fixed": [2, 2]}, "fixed"),
        ({"fixed": 3}, "fixed"),
        ({"fixed": None}, "fixed"),
        ({"input_name": 5}, "input_name"),
        ({"damping": -1}, "damping"),
        ({"control": 1}, "control"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_sent(fake, client, change, field) -> None:
    with pytest.raises(undue.InvalidArgument) as caught:
        client.perturb("m", **DATA, **change)
    assert caught.value.violations[0].field == field
    assert not fake.requests


def poisoned(attack, row, *values, named="x"):
    data = np.array(values, "<f4").tobytes()
    tensor = tensors_pb2.Tensor(dtype=tensors_pb2.DATA_TYPE_FLOAT32, shape=[len(values)], data=data)
    return perturbation_pb2.PoisonedRow(attack=attack, row=row, input=named, values=tensor)


@pytest.fixture
def attacked(fake):
    """The result of two attacks, the second against a row that was wrong already."""
    share = {"count": 1, "total": 2, "value": 0.5, "low": 0.125, "high": 0.875}
    none = {"count": 0, "total": 2, "value": 0.0, "low": 0.0, "high": 0.625}
    fake.perturbation = perturbation_pb2.PerturbationSummary(
        flipped=share,
        control=none,
        already_wrong=1,
        unconfirmed=1,
        test_loss_before=0.25,
        test_loss_after=0.5,
        flips=[0, 2],
    )
    targets = [
        {"row": 3, "flipped": True, "confirmed": True, "control_flipped": False},
        {"row": 4, "flipped": True, "confirmed": False, "control_flipped": False},
    ]
    first = perturbation_pb2.Perturbation(
        targets=targets,
        rows=[{"row": 7, "linf": 0.5, "l2": 2.0}, {"row": 8, "linf": 0.25, "l2": 4.0}],
        iterations=1,
        costs=[0.5, 1.5],
        control_costs=[0.5, 0.625],
        test_loss=0.5,
    )
    second = perturbation_pb2.Perturbation(index=1, targets=[{"row": 9, "already_wrong": True}], costs=[2.0])
    page = perturbation_pb2.ListPerturbationsResponse
    fake.perturbation_pages = [page(perturbations=[first]), page(perturbations=[second])]
    fake.poisoned = [poisoned(0, 7, 1, 2), poisoned(0, 8, 3, 4)]
    return fake


def test_a_result_is_read(attacked, client) -> None:
    job = client.jobs.get("jobs/perturb")
    assert isinstance(job, undue.PerturbJob)
    assert job.kind == "perturb"
    found = job.result()
    assert (found.share_flipped, found.interval) == (0.5, (0.125, 0.875))
    assert (found.control.value, found.already_wrong, found.unconfirmed, found.flips) == (0.0, 1, 1, (0, 2))
    assert (found.test_loss_before, found.test_loss_after) == (0.25, 0.5)
    one, other = found
    assert one.rows == (undue.PerturbedRow(7, 0.5, 2.0), undue.PerturbedRow(8, 0.25, 4.0))
    assert (one.costs, one.control_costs, one.test_loss) == ((0.5, 1.5), (0.5, 0.625), 0.5)
    assert [each.confirmed for each in one.targets] == [True, False]
    assert (other.targets[0].confirmed, other.targets[0].control_flipped) == (None, None)
    assert (one.flipped, other.flipped) == (False, False)
    frame = found.to_pandas()
    assert frame.test_row.tolist() == [3, 4, 9]
    assert frame.linf.tolist() == [0.5, 0.5, 0.0]
    assert frame.cost_after.tolist()[:2] == [1.5, 1.5]
    assert frame.cost_after.isna().tolist() == [False, False, True]
    text = str(found)
    assert [line.split()[1] for line in text.splitlines()[1:4]] == ["3", "4", "9"]
    assert "flipped 1 of 2 (50.0%, 12.5% to 87.5%)" in text
    assert "with random signs 0 of 2" in text
    assert "1 test rows were wrong already" in text
    assert repr(found) == "<PerturbResult: 2 attacks, flipped 1 of 2 (50.0%, 12.5% to 87.5%)>"
    assert "<td>wrong already</td>" in found._repr_html_()


def test_poisoned_rows_are_read_on_demand_and_again_where_the_stream_breaks(attacked, client) -> None:
    attacked.broken_poisoned = 2
    found = client.jobs.get("jobs/perturb").result()
    assert not attacked.calls["ReadPoisonedRows"]
    one = found.poisoned(0)
    assert (one.attack, one.rows, one.input, one.values.tolist()) == (0, (7, 8), "x", [[1.0, 2.0], [3.0, 4.0]])
    assert found.poisoned(0) is one
    assert attacked.calls["ReadPoisonedRows"] == 3
    with pytest.raises(undue.InvalidArgument, match="no attack 2"):
        found.poisoned(2)
    with pytest.raises(undue.FailedPrecondition, match="wrong about its test rows already"):
        found.poisoned(1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows.clear(),
        lambda rows: rows.append(poisoned(0, 9, 1)),
        lambda rows: rows.append(poisoned(0, 9, 1, 2, named="y")),
    ],
)
def test_poisoned_rows_that_do_not_fit_together_are_refused(attacked, client, spoil) -> None:
    spoil(attacked.poisoned)
    with pytest.raises(undue.Internal):
        client.jobs.get("jobs/perturb").result().poisoned(0)


def test_the_command_line(attacked, capsys) -> None:
    def run(*words):
        assert main(["--server", attacked.address, *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    data = ["--train", "d", "--test", "t"]
    ball = ["--bound", "linf", "--radius", "2", "--level", "1/255", "--fixed", "1,2", "3"]
    run("perturb", "m", *data, "--rows", "1,2", "3", "--candidates", "4", "--no-control", "--no-wait", *ball)
    sent = asked(attacked)
    assert [list(one.rows) for one in sent.attacks] == [[1, 2], [3]]
    assert (sent.candidates, sent.control, sent.confirm, sent.bound) == (4, False, True, Spec.BOUND_LINF)
    assert (sent.radius, sent.level, list(sent.fixed)) == (2.0, 1 / 255, [1, 2, 3])
    assert "seconds" in run("perturb", "m", *data, "--estimate")
    found = run("jobs", "result", "perturb")
    assert found["flipped"]["count"] == 1
    assert found["attacks"][0]["rows"] == [{"row": 7, "linf": 0.5, "l2": 2.0}, {"row": 8, "linf": 0.25, "l2": 4.0}]
