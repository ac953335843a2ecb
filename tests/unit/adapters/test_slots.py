import pytest

from undue_service.adapters.pool.slots import find_devices
from undue_service.domain.errors import InvalidArgument


def test_without_a_device_file_there_is_one_cpu_slot(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert find_devices("auto", tmp_path) == ("cpu",)


def test_each_cuda_device_is_a_slot(tmp_path, monkeypatch):
    for name in ("nvidia0", "nvidia1", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_devices("auto", tmp_path) == ("cuda:0", "cuda:1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_devices("auto", tmp_path) == ("cuda:0",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_devices("auto", tmp_path) == ("cpu",)


def test_a_list_is_taken_as_it_stands():
    assert find_devices("cuda:1, cpu") == ("cuda:1", "cpu")


@pytest.mark.parametrize("setting", ["gpu", "cuda", "cuda:x", "", "cpu,"])
def test_what_is_no_device_is_refused(setting):
    with pytest.raises(InvalidArgument, match="UNDUE_DEVICES"):
        find_devices(setting)
