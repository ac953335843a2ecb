from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dataset_tables import Table
from index_bench import Bench
from undue._export import write_pt2
from undue_service.domain.index_jobs import IndexSpec
from undue_service.domain.specs import ModelSpec, ObjectiveSpec

TRAIN = 700


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Table:
    """1,000 rows: the model is trained on the first 700."""
    images, labels = load_digits(return_X_y=True)
    return Table({"image": (images[:1000] / 16).astype(np.float32)}, labels[:1000], [f"digit-{i}" for i in range(1000)])


@pytest.fixture(scope="session")
def network(digits: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    x, y = torch.tensor(digits.inputs["image"][:TRAIN]), torch.tensor(digits.targets[:TRAIN])
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimiser.step()
    return write_pt2(module, x[:2], tmp_path_factory.mktemp("model"))


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def model(bench: Bench, network: Path) -> ModelSpec:
    return bench.model(network, ObjectiveSpec("cross_entropy", l2=0.001))


@pytest.fixture
def spec() -> IndexSpec:
    return IndexSpec("models/m/versions/1", "datasets/train/versions/1", "ekfac", damping=0.01)
