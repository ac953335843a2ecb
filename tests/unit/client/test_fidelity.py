"""Fidelity and leverage jobs of the SDK and the command line: what is sent, and what is made of the answers."""

import json
import re

import numpy as np
import pytest

import undue
from undue.cli.main import main
from undue.v1 import jobs_pb2, tensors_pb2

DATA = {"train": "d", "test": "t"}


def asked(fake):
    return fake.requests[-1].job


def test_what_fidelity_asks_for(fake, client) -> None:
    client.fidelity("m", **DATA)
    sent = asked(fake).fidelity
    assert (sent.model, sent.train, sent.test, sent.method) == ("models/m", "datasets/d", "datasets/t", "")
    assert sent.settings.protocol == jobs_pb2.FidelitySettings.PROTOCOL_LOO
    assert (sent.settings.samples, sent.settings.strata, sent.settings.seeds) == (50, 5, 1)
    assert not sent.settings.HasField("start")
    client.fidelity(
        "m",
        **DATA,
        kind="lds",
        rows=np.array([4]),
        method="ekfac",
        samples=7,
        share=0.25,
        seeds=2,
        start="cold",
        bootstrap=9,
        seed=11,
        measurement="margin",
        damping=0.5,
        parameters=["2.*"],
        rank=8,
        normalization="loss",
        ensemble=True,
        timeout_seconds=60,
    )
    sent = asked(fake).fidelity
    assert sent.settings.protocol == jobs_pb2.FidelitySettings.PROTOCOL_LDS
    assert sent.settings.start == jobs_pb2.START_COLD
    assert (sent.settings.samples, sent.settings.share, sent.settings.seeds) == (7, 0.25, 2)
    assert (sent.settings.bootstrap, sent.settings.seed, sent.seed) == (9, 11, 11)
    assert (list(sent.rows), sent.method, sent.rank, sent.ensemble) == ([4], "ekfac", 8, True)
    assert sent.measurement == jobs_pb2.MEASUREMENT_MARGIN
    assert sent.normalization == jobs_pb2.NORMALIZATION_LOSS
    assert list(sent.parameters) == ["2.*"]
    assert asked(fake).timeout_seconds == 60


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "all"}, "kind"),
        ({"samples": 0}, "samples"),
        ({"strata": 2.5}, "strata"),
        ({"share": 1.5}, "share"),
        ({"seeds": 0}, "seeds"),
        ({"start": "hot"}, "start"),
        ({"bootstrap": -1}, "bootstrap"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_sent(fake, client, change, field) -> None:
    with pytest.raises(undue.InvalidArgument) as caught:
        client.fidelity("m", **DATA, **change)
    assert caught.value.violations[0].field == field
    assert not fake.requests


def test_other_jobs_ask_for_retraining_too(fake, client) -> None:
    client.influence("m", **DATA)
    assert not asked(fake).influence.HasField("fidelity")
    client.influence("m", **DATA, fidelity=True)
    assert asked(fake).influence.fidelity.samples == 50
    client.influence("m", **DATA, fidelity=undue.FidelitySettings("lds", samples=3))
    assert asked(fake).influence.fidelity.protocol == jobs_pb2.FidelitySettings.PROTOCOL_LDS
    with pytest.raises(undue.InvalidArgument, match="FidelitySettings"):
        client.influence("m", **DATA, fidelity=3)
    client.retrain("m", **DATA, without=[[1]])
    assert (asked(fake).retrain.HasField("start"), asked(fake).retrain.seeds) == (False, 1)
    client.retrain("m", **DATA, without=[[1]], start="warm", seeds=4)
    assert (asked(fake).retrain.start, asked(fake).retrain.seeds) == (jobs_pb2.START_WARM, 4)
    with pytest.raises(undue.InvalidArgument, match="hot"):
        client.retrain("m", **DATA, without=[[1]], start="hot")
    client.leverage("m", train="d", damping=0.5, dfbeta=True)
    assert (asked(fake).leverage.damping, asked(fake).leverage.dfbeta) == (0.5, True)


def test_an_estimate_is_of_the_job_that_the_arguments_are_of(fake, client) -> None:
    for arguments, kind in (
        ({"test": "t", "kind": "loo"}, "fidelity"),
        ({"test": "t", "without": [[1]], "seeds": 2}, "retrain"),
        ({"test": "t", "fidelity": True}, "influence"),
        ({"dfbeta": False}, "leverage"),
        ({}, "self_influence"),
    ):
        client.estimate("m", train="d", **arguments)
        assert asked(fake).WhichOneof("spec") == kind
        assert fake.requests[-1].validate_only


def test_leave_one_out_is_read(fake, client, finding, compared) -> None:
    fake.finding, fake.comparison_pages = finding(), compared()
    job = client.jobs.get("jobs/fidelity")
    assert isinstance(job, undue.FidelityJob)
    assert job.spec["settings"]["protocol"] == "loo"
    found = job.result()
    assert (found.kind, found.rows, len(found)) == ("loo", (5, 3), 2)
    assert found.without.tolist() == [7, 8]
    assert found.stratum.tolist() == [-1, 0]
    assert found.predicted.tolist() == [[0.5, 0.0], [0.5, 1.0]]
    assert found.measured.tolist() == [[0.25, 0.0], [0.25, -1.0]]
    assert not found.measured.flags.writeable
    assert found.pearson == undue.Interval(0.75, 0.5, 0.875)
    assert (found.lds, found.subsets, found.recipe) == (None, None, "trained again")
    assert found.strata[0].agreement.slope.value == 0.75
    lines = str(found).splitlines()
    assert lines[0].split()[:2] == ["of", "Pearson"]
    assert re.split(r"\s{2,}", lines[1])[:3] == ["random rows", "0.750", "0.500 to 0.875"]
    assert lines[2].startswith("rows with |score| 0.12 to 0.25")
    assert "warning: 2 retrainings tell little" in lines
    assert repr(found) == (
        "<FidelityResult: Pearson 0.750 (0.500 to 0.875), 2 retrainings, 2 test rows, method exact, damping 0.5>"
    )
    assert "<td>random rows</td>" in found._repr_html_()
    frame = found.to_pandas()
    assert frame["without"].tolist() == [7, 7, 8, 8]
    assert frame.stratum.isna().tolist() == [True, True, False, False]


def test_the_linear_datamodelling_score_is_read(fake, client, finding, compared) -> None:
    fake.finding, fake.comparison_pages = finding("LDS"), compared("LDS")
    found = client.jobs.get("jobs/fidelity").result()
    assert found.subsets.tolist() == [[1, 2], [1, 3]]
    assert (found.without, found.stratum, found.strata) == (None, None, ())
    assert found.lds.value == 0.75
    assert "linear datamodelling score 0.750 (0.500 to 0.875)" in str(found).splitlines()
    assert repr(found).startswith("<FidelityResult: LDS 0.750")
    assert found.to_pandas()["without"].isna().all()


def test_retrainings_that_do_not_fit_together_are_refused(fake, client, finding, compared) -> None:
    fake.finding = finding()
    for spoil in (
        lambda pages: pages[1].comparisons[0].measured.append(1.0),
        lambda pages: pages[1].comparisons[0].without.append(1),
        lambda pages: pages.clear() or pages.append(jobs_pb2.ListComparisonsResponse()),
    ):
        fake.comparison_pages = compared()
        spoil(fake.comparison_pages)
        with pytest.raises(undue.Internal, match="fit together"):
            client.jobs.get("jobs/fidelity").result()
    fake.finding, fake.comparison_pages = None, compared()
    with pytest.raises(undue.Internal, match="finding"):
        client.jobs.get("jobs/fidelity").result()


def leverage_blocks(dfbeta: bool) -> list[jobs_pb2.LeverageBlock]:
    blocks = []
    for first, rows in ((0, ["a", "b"]), (2, ["c"])):
        size = len(rows)
        block = jobs_pb2.LeverageBlock(
            first=first,
            ids=rows,
            leverage=[0.5] * size,
            cooks_distance=[first + 1.0] * size,
            effective_parameters=1.5,
            variance=0.25,
        )
        if dfbeta:
            data = np.full((size, 2), first, "<f8").tobytes()
            dtype = tensors_pb2.DATA_TYPE_FLOAT64
            block.dfbeta.CopyFrom(tensors_pb2.Tensor(dtype=dtype, shape=[size, 2], data=data))
        blocks.append(block)
    if dfbeta:
        blocks[0].coefficients.extend(["w[0, 0]", "b"])
    return blocks


def test_leverages_are_read_again_where_the_stream_breaks(fake, client) -> None:
    fake.leverage_blocks, fake.broken_leverages = leverage_blocks(True), 2
    job = client.jobs.get("jobs/leverage")
    assert isinstance(job, undue.LeverageJob)
    found = job.result()
    assert fake.calls["ReadLeverages"] == 3
    assert (found.ids, found.rows.tolist()) == (("a", "b", "c"), [0, 1, 2])
    assert found.cooks_distance.tolist() == [1.0, 1.0, 3.0]
    assert found.dfbeta.tolist() == [[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]
    assert str(found).splitlines()[1].split()[:2] == ["2", "c"]
    assert list(found.to_pandas().columns)[-2:] == ["dfbeta w[0, 0]", "dfbeta b"]
    fake.leverage_blocks = leverage_blocks(False)
    plain = client.jobs.get("jobs/leverage").result()
    assert plain.dfbeta is None
    assert list(plain.to_pandas().columns) == ["train_row", "id", "leverage", "cooks_distance"]
    assert "<td>c</td>" in plain._repr_html_()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda blocks: blocks.pop(0),
        lambda blocks: blocks.clear(),
        lambda blocks: blocks[1].ids.append("d"),
        lambda blocks: blocks[1].ClearField("dfbeta"),
        lambda blocks: blocks[0].coefficients.append("c"),
    ],
)
def test_blocks_that_do_not_fit_together_are_refused(fake, client, spoil) -> None:
    fake.leverage_blocks = leverage_blocks(True)
    spoil(fake.leverage_blocks)
    with pytest.raises(undue.Internal):
        client.jobs.get("jobs/leverage").result()


def test_a_finding_is_told_beside_scores(fake, client, explanation, finding) -> None:
    fake.explanations, fake.finding = [explanation(3)], finding()
    found = client.jobs.get("jobs/a").result()
    assert found.diagnostics.fidelity.agreement.retrainings == 2
    assert "against 2 retrainings: Pearson 0.750 (0.500 to 0.875)" in str(found)
    assert "warning: 2 retrainings tell little" in str(found)
    fake.finding = finding("LDS")
    assert "linear datamodelling score 0.750" in str(client.jobs.get("jobs/a").result())


def test_the_command_line(fake, capsys, finding, compared) -> None:
    data = ["--train", "d", "--test", "t"]

    def run(*words):
        assert main(["--server", fake.address, *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    run("fidelity", "m", *data, "--kind", "lds", "--samples", "3", "--seeds", "2", "--start", "warm", "--no-wait")
    sent = asked(fake).fidelity
    assert (sent.settings.samples, sent.settings.seeds, sent.settings.start) == (3, 2, jobs_pb2.START_WARM)
    run("retrain", "m", *data, "--without", "1", "--start", "cold", "--no-wait")
    assert asked(fake).retrain.start == jobs_pb2.START_COLD
    run("influence", "m", *data, "--fidelity", "--no-wait")
    assert asked(fake).influence.HasField("fidelity")
    run("leverage", "m", "--train", "d", "--dfbeta", "--damping", "0.5", "--no-wait")
    assert (asked(fake).leverage.dfbeta, asked(fake).leverage.damping) == (True, 0.5)
    fake.finding, fake.comparison_pages = finding(), compared()
    found = run("jobs", "result", "fidelity")
    assert found["pearson"] == {"value": 0.75, "low": 0.5, "high": 0.875}
    assert (found["kind"], found["lds"], found["without"]) == ("loo", None, [7, 8])
    fake.leverage_blocks = leverage_blocks(True)
    assert run("jobs", "result", "leverage")["dfbeta"] == [[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]
