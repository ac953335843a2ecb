import pytest
from pydantic import ValidationError

from undue_service.domain.costs import BLOCK_BYTES
from undue_service.settings import Settings


@pytest.mark.parametrize(
    "address", ["127.0.0.1:50051", "localhost:0", "[::1]:50051", "127.8.8.8:1", "unix:/tmp/undue.sock"]
)
def test_loopback_is_where_it_listens(address):
    assert Settings(grpc_address=address).grpc_address == address


@pytest.mark.parametrize(
    "address", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:1", "example.org:50051", ":50051", "127.0.0.1.evil.org:1"]
)
def test_anything_beyond_loopback_is_refused(address):
    with pytest.raises(ValidationError, match=r"refusing to listen|must be host:port"):
        Settings(grpc_address=address)


def test_metrics_stay_on_loopback_too_and_may_be_nowhere():
    assert Settings(metrics_address="").metrics_address == ""
    for address in ("0.0.0.0:9464", "unix:/tmp/m"):
        with pytest.raises(ValidationError, match=r"refusing to listen|must be host:port"):
            Settings(metrics_address=address)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValidationError, match="host:port"):
        Settings(grpc_address=address)


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    (tmp_path / "undue.toml").write_text('grpc_address = "127.0.0.1:1"\ndevices = "cpu"\n')
    monkeypatch.setenv("UNDUE_CONFIG", str(tmp_path / "undue.toml"))
    monkeypatch.setenv("UNDUE_GRPC_ADDRESS", "127.0.0.1:2")
    settings = Settings()
    assert (settings.grpc_address, settings.devices) == ("127.0.0.1:2", "cpu")


def test_a_setting_that_does_not_exist_is_an_error_in_the_file(tmp_path, monkeypatch):
    (tmp_path / "undue.toml").write_text("grpc_adress = 1\n")
    monkeypatch.setenv("UNDUE_CONFIG", str(tmp_path / "undue.toml"))
    with pytest.raises(ValidationError, match="grpc_adress"):
        Settings()


@pytest.mark.parametrize(
    ("given", "folders"),
    [
        ("", []),
        (" , ", []),
        ("/data", ["/data"]),
        ("/data, file:///mnt/more%2Cdata ,file://localhost/x/", ["/data", "/mnt/more,data", "/x"]),
    ],
)
def test_dataset_roots_are_paths_or_uris_separated_by_commas(monkeypatch, given, folders):
    monkeypatch.setenv("UNDUE_DATASET_ROOTS", given)
    assert [str(root) for root in Settings().dataset_roots] == folders


def test_dataset_roots_may_be_a_list_in_the_file(tmp_path, monkeypatch):
    (tmp_path / "undue.toml").write_text('dataset_roots = ["/a,b", "file:///c"]\n')
    monkeypatch.setenv("UNDUE_CONFIG", str(tmp_path / "undue.toml"))
    assert [str(root) for root in Settings().dataset_roots] == ["/a,b", "/c"]


@pytest.mark.parametrize(
    "root", ["data", "./data", "~/data", "s3://bucket", "file://host/data", "file://", "/data/../etc", "file:///a%00b"]
)
def test_a_dataset_root_that_could_mean_anything_is_refused(root):
    with pytest.raises(ValidationError, match="absolute path"):
        Settings(dataset_roots=root)


def test_the_budget_of_a_block_is_the_engines_own_unless_it_is_set(monkeypatch):
    assert Settings().block_bytes == BLOCK_BYTES
    monkeypatch.setenv("UNDUE_BLOCK_BYTES", str(1 << 20))
    assert Settings().block_bytes == 1 << 20


@pytest.mark.parametrize("wrong", ["0", "-1", str((1 << 20) - 1), "1GB", "1e9", ""])
def test_a_budget_that_holds_nothing_is_refused(monkeypatch, wrong):
    monkeypatch.setenv("UNDUE_BLOCK_BYTES", wrong)
    with pytest.raises(ValidationError, match="block_bytes"):
        Settings()


def test_every_setting_says_what_it_means():
    assert all(field.description for field in Settings.model_fields.values())
