"""The Dockerfile and the compose file as data; `make image-check` carries the Dockerfile's steps out (slow)."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import dockerfile
import dockerfile_steps
import pytest
import yaml

from undue_service.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
FILE = dockerfile.parse(TEXT)
CONTEXT = dockerfile.Context(ROOT)
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
RUNNER_LIBRARIES = ("runner]", "torch", "onnx", "pyarrow")


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_copied_exists():
    for name, stage in FILE.stages.items():
        for step, source_stage, sources in stage.sources():
            if source_stage is not None:
                assert list(FILE.stages).index(source_stage) < list(FILE.stages).index(name), step
            else:
                assert all(any(CONTEXT.files(source)) for source in sources), step


def test_the_context_is_what_the_build_needs_and_no_more():
    held = {path.relative_to(ROOT).parts[0] for path in ROOT.iterdir() if CONTEXT.holds(path)}
    assert held == {"constraints.txt", "client", "service"}
    for unwanted in ("client/src/undue/__pycache__/a.pyc", "service/src/a.egg-info/PKG-INFO", "client/dist/a.whl"):
        assert not CONTEXT.holds(Path(unwanted))
    assert CONTEXT.holds(Path("service/src/undue_service/adapters/sql/migrations/script.py.mako"))


def test_the_api_image_is_made_without_a_runners_libraries():
    for stage in FILE.needed("api"):
        assert [word for step in stage.steps for word in RUNNER_LIBRARIES if word in step.value.split("=")[0]] == []
        assert [step.line for step in stage.steps if step.name == "RUN" and "[runner]" in step.value] == []
    assert any("[runner]" in step.value for stage in FILE.needed("runner") for step in stage.steps)
    assert FILE.last == "runner"


def test_torch_comes_first_and_of_a_named_build():
    runs = [step.value for step in FILE.stages["runner-env"].steps if step.name == "RUN"]
    assert "+${TORCH_BUILD}" in runs[0]
    assert "[runner]" not in runs[0]
    assert "[runner]" in runs[1]


@pytest.mark.parametrize("target", ["api", "runner"])
def test_an_image_is_started_as_a_user_without_rights(target):
    steps = {step.name: step for step in FILE.inherited(target)}
    assert steps["USER"].value == "10001:10001"
    assert json.loads(steps["ENTRYPOINT"].value) == ["undue-service"]
    assert json.loads(steps["CMD"].value) == ["serve"]
    assert steps["HEALTHCHECK"].value.startswith('CMD ["python", "-c",')
    assert steps["STOPSIGNAL"].value == "SIGTERM"
    environment = steps["ENV"].pairs({})
    assert [environment["UNDUE_DATA_DIR"]] == steps["VOLUME"].words({})
    assert environment["UNDUE_METRICS_ADDRESS"] == Settings.model_fields["metrics_address"].default


@pytest.mark.parametrize("target", ["api", "runner"])
def test_the_label_says_the_version(target):
    arguments = [step.value for step in FILE.stages[target].steps if step.name == "ARG"]
    version = tomllib.loads((ROOT / "service/pyproject.toml").read_text())["project"]["version"]
    assert f"VERSION={version}" in arguments
    assert COMPOSE["services"]["undue"]["image"] == f"undue:{version}"


def test_base_images_have_a_stand_in():
    outside = {stage.base for stage in FILE.stages.values()} - set(FILE.stages)
    assert all(dockerfile_steps.EMULATED.fullmatch(image) for image in outside)
    assert not dockerfile_steps.EMULATED.fullmatch("python:3.12-slim-bookworm")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("RUN a\nFROM b", "before the first FROM"),
        ("FROM a\nADD b c", "ADD is not known"),
        ("FROM a\nRUN <<EOF\nb\nEOF", "here-documents"),
    ],
)
def test_what_the_reader_does_not_know_is_refused(text, match):
    with pytest.raises(ValueError, match=match):
        dockerfile.parse(text)


def test_the_reader():
    text = "ARG A=one\nFROM a:${A} AS x\n# no\nENV P=/x:$P \\\n    Q='two words'\nFROM x\nCOPY --from=x /a /b c/\n"
    read = dockerfile.parse(text, {"A": "two"})
    assert [(stage.name, stage.base) for stage in read.needed("1")] == [("x", "a:two"), ("1", "x")]
    assert read.stages["x"].steps[0].pairs({"P": "/y"}) == {"P": "/x:/y", "Q": "two words"}
    assert [source[1:] for source in read.stages["1"].sources()] == [("x", ["/a", "/b"])]
    assert dockerfile.expand("${A:-b}${A:+c}$D", {"D": "d"}) == "bd"
    with pytest.raises(ValueError, match="no stage 'y'"):
        read.needed("y")


def test_compose_takes_rights_away_from_every_service():
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert "healthcheck" in service or name == "undue", name  # whose image has one
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service.get("privileged") is None, name


def test_compose_leaves_the_service_on_loopback():
    services = COMPOSE["services"]
    assert services["undue"]["network_mode"] == services["prometheus"]["network_mode"] == "service:loopback"
    assert not [key for key in services["undue"].get("environment", {}) if key.endswith("_ADDRESS")]
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    [scraped] = prometheus["scrape_configs"]
    [steps] = [step for step in FILE.stages["runtime"].steps if step.name == "ENV"]
    assert scraped["static_configs"] == [{"targets": [steps.pairs({})["UNDUE_METRICS_ADDRESS"]]}]


def test_compose_mounts_what_exists():
    for service in COMPOSE["services"].values():
        assert service.get("build", {}).get("target", FILE.last) in FILE.stages
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / "deploy" / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]
    [provider] = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/undue.yaml").read_text())["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in COMPOSE["services"]["grafana"]["volumes"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", ["api", "runner"])
def test_the_steps_make_an_image_that_starts(target):
    if why := dockerfile_steps.missing():
        pytest.skip(why)
    command = [sys.executable, str(ROOT / "tools/image_check.py"), "--target", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"{target}: healthy after" in done.stdout
