"""The dashboard and the alerts, against what a service that works really exports."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import undue
from promql import references

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana/dashboards/undue.json"
RULES = DEPLOY / "prometheus/rules.yml"

PROMETHEUS_ADDS = {"instance", "job"}  # to every sample that it scrapes
PROMETHEUS_MAKES = {"up": set()}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def scrape(tmp_path_factory):
    """The /metrics of a service that answered calls, ended jobs well and badly, and lost a runner."""
    read, write = os.pipe()
    folder = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "undue_service.main", "serve", "--address", "127.0.0.1:0"]
    command += ["--data-dir", str(folder), "--ready-fd", str(write)]
    environment = os.environ | {"UNDUE_METRICS_ADDRESS": "127.0.0.1:0"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(write,), stderr=log, env=environment)
    os.close(write)
    with os.fdopen(read) as pipe:
        address = json.loads(pipe.readline())["address"]
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    [observing] = [line["address"] for line in lines if line["message"] == "observing"]
    with undue.Client(address) as client:
        X = np.arange(12.0).reshape(6, 2)
        client.datasets.register("good", undue.Arrays(inputs=X, targets=np.arange(6)))
        [runner] = client.server_info().runners
        os.kill(runner.pid, signal.SIGKILL)
        X[3, 1] = np.nan
        with pytest.raises(undue.JobFailed):
            client.datasets.register("bad", undue.Arrays(inputs=X))
        with urllib.request.urlopen(f"http://{observing}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    return text


def series_of(text):
    """Each series name with its labels; None for the labels where nothing has happened yet: there is only the TYPE."""
    series = dict(PROMETHEUS_MAKES)
    for family in text_string_to_metric_families(text):
        for suffix in SUFFIXES[family.type]:
            series[family.name + suffix] = None
        for sample in family.samples:
            series[sample.name] = (series.get(sample.name) or set()) | set(sample.labels)
    return series


@pytest.fixture(scope="module")
def exported(scrape):
    return series_of(scrape)


def panel_expressions():
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
        yield f"variable {variable['name']}", f"sum by ({label}) ({metric})"


def alert_expressions():
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def missing(expression, exported):
    """What an expression names and the service does not export."""
    for metric, labels in references(expression).items():
        if metric not in exported:
            yield metric
        elif exported[metric] is not None:
            yield from (f"{metric}{{{label}}}" for label in sorted(labels - exported[metric] - PROMETHEUS_ADDS))


@pytest.mark.parametrize("expressions", [panel_expressions, alert_expressions])
def test_every_metric_and_label_is_exported(expressions, exported):
    pairs = list(expressions())
    assert len(pairs) >= 5
    assert [(title, name) for title, text in pairs for name in missing(text, exported)] == []


def test_what_is_not_exported_is_found(exported):
    def found(text):
        return list(missing(text, exported))

    assert found("rate(undue_jobs_lost_total[5m]) / rate(undue_jobs_finished_total[5m])") == ["undue_jobs_lost_total"]
    assert found('undue_jobs_queued{kind="influence"}') == ["undue_jobs_queued{kind}"]
    assert found("sum by (outcome, lane) (undue_jobs_finished_total)") == ["undue_jobs_finished_total{lane}"]
    assert found("histogram_quantile(0.9, sum(rate(undue_job_queue_seconds[5m])) by (le))") == [
        "undue_job_queue_seconds"
    ]


def test_a_counter_without_an_event_is_known_by_its_type():
    quiet = series_of("# HELP a_total A.\n# TYPE a_total counter\n")
    assert list(missing('a_total{x="1"}', quiet)) == []
    assert list(missing("a", quiet)) == ["a"]


def test_compared_outcomes_exist(scrape):
    """A misspelt value is as silent as a misspelt name."""
    texts = " ".join(text for expressions in (panel_expressions, alert_expressions) for _, text in expressions())
    assert set(re.findall(r'outcome="(\w+)"', texts)) == {"failed"}
    assert 'outcome="failed"' in scrape
    assert 'grpc_type="unary"' in scrape


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a", {"a": set()}),
        ('rate(a_total{x="1", y!~"b|c"}[5m])', {"a_total": {"x", "y"}}),
        ("sum by (x) (rate(a[1m])) / sum(b) by (y) > 0.5", {"a": {"x"}, "b": {"y"}}),
        ("a > 1 unless on (x) sum without (y) (b offset 5m) == 0", {"a": {"x"}, "b": {"x", "y"}}),
        ('label_replace(a, "to", "$1", "from", "(.*)") or vector(0)', {"a": set()}),
        ("60 * min_over_time(a{x='}'}[30m:1m]) and b", {"a": {"x"}, "b": set()}),
    ],
)
def test_reading_promql(expression, expected):
    assert references(expression) == expected


@pytest.mark.parametrize("expression", ["sum(a", "a ? b", "a by (x)"])
def test_what_is_not_promql_is_refused(expression):
    with pytest.raises(ValueError, match=r"PromQL|bracket|aggregation"):
        references(expression)


def test_the_dashboard_finds_its_data_source():
    dashboard = json.loads(DASHBOARD.read_text())
    [source] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    drawn = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {one["datasource"]["uid"] for one in (*drawn, *dashboard["templating"]["list"])} == {source["uid"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_reads_its_files(tmp_path):
    """Its own checker, also over the dashboard's expressions, which become rules for that."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    texts = [re.sub(r"\$__\w+", "5m", text).replace("$instance", ".*") for _, text in panel_expressions()]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for check in (("config", DEPLOY / "prometheus/prometheus.yml"), ("rules", RULES, tmp_path / "panels.yml")):
        done = subprocess.run([promtool, "check", *check], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
