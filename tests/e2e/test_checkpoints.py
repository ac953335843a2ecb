"""Checkpoints and recipes in every form, through the SDK to a real service."""

import io
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

import undue

pytestmark = pytest.mark.filterwarnings("ignore::undue.ModelWarning")  # most are registered without a sample

OBJECTIVE = undue.Objective("cross_entropy", l2=1e-2)
DYNAMIC = ({0: torch.export.Dim.DYNAMIC},)
RATES = (0.5, 0.25, 0.125, 0.1, 0.05, 0.02)
ROWS = [3, 40]


class Net(nn.Module):
    """A network whose BatchNorm has learned statistics: a checkpoint without them is another model."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.hidden(x))))


def epochs(X, y, count):
    """Train, and return the module as it was after each epoch."""
    torch.manual_seed(0)
    net, inputs, targets = Net(), torch.as_tensor(X), torch.as_tensor(y)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    kept = []
    for _ in range(count):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
        kept.append(deepcopy(net).eval())
        net.train()
    return kept


def as_safetensors(net, folder):
    save_file(net.state_dict(), folder / "epoch.safetensors")
    return folder / "epoch.safetensors"


def as_onnx(net, folder):
    path = folder / "epoch.onnx"
    torch.onnx.export(
        net, (torch.zeros(2, 4),), path, dynamo=True, optimize=False, dynamic_shapes=DYNAMIC, external_data=False
    )
    return path


def as_pt2(net, folder):
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=DYNAMIC), folder / "epoch.pt2")
    return str(folder / "epoch.pt2")


def as_arrays(net, folder):
    """With neither the counter of batches nor float32, as a program of another framework would have them."""
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items() if "num_batches" not in name}
    return {name: array.astype(np.float64) for name, array in state.items()}


def as_bfloat16(net, folder):
    return {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()
    }


def as_module(net, folder):
    return net


FORMS = (as_safetensors, as_onnx, as_pt2, as_arrays, as_bfloat16, as_module)


@pytest.fixture(scope="module")
def trained(client, tmp_path_factory):
    """A model with a checkpoint in every form, and each checkpoint as a model of its own."""
    rng = np.random.default_rng(3)
    y = np.arange(60) % 3
    X = (rng.normal(size=(60, 4)) + 1.5 * np.eye(3, 4)[y]).astype(np.float32)
    train = client.datasets.register("epochs", undue.Arrays(inputs=X, targets=y))
    *nets, last = epochs(X, y, len(FORMS) + 1)
    nets[4].load_state_dict(as_bfloat16(nets[4], None))  # what is sent has been rounded
    folder = tmp_path_factory.mktemp("epochs")
    sources = [form(net, folder) for form, net in zip(FORMS, nets, strict=True)]

    def register(name, net, **settings):
        return client.models.register(name, net, objective=OBJECTIVE, example_inputs=X[:2], **settings)

    model = register(
        "with-checkpoints",
        last,
        sample=train,
        checkpoints=[undue.Checkpoint(source, rate) for source, rate in zip(sources, RATES, strict=True)],
    )
    members = [register(f"epoch-{i}", net) for i, net in enumerate(nets)]
    return SimpleNamespace(
        X=X, y=y, train=train, nets=nets, last=last, sources=sources, register=register, model=model, members=members
    )


@pytest.fixture(scope="module")
def scores(client, trained):
    def ask(model, method="grad_dot", **settings):
        job = client.influence(
            model, train=trained.train, test=trained.train, rows=ROWS, method=method, top_k=None, **settings
        )
        return job.result(timeout=120).scores

    return ask


@pytest.fixture(scope="module")
def of_members(scores, trained):
    return [scores(one) for one in trained.members]


def close(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_the_registration_tells_what_it_found_at_each(trained):
    report = trained.model.checkpoints
    assert [one.learning_rate for one in report] == list(RATES)
    losses = [one.stationarity.mean_loss for one in report]
    with torch.no_grad():
        inputs, targets = torch.as_tensor(trained.X), torch.as_tensor(trained.y)
        expected = [float(nn.functional.cross_entropy(net(inputs), targets)) for net in trained.nets]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert all(one.checkpoints == () for one in trained.members)


def test_an_ensemble_is_the_mean_of_its_members(client, trained, scores, of_members):
    assert close(scores(trained.model, ensemble=True), np.mean(of_members, axis=0)) < 1e-5
    assert close(scores(trained.model), np.mean(of_members, axis=0)) > 1e-2, "the average of anything would do"


def test_tracin_weighs_the_members_with_their_learning_rates(trained, scores, of_members):
    expected = sum(rate * each for rate, each in zip(RATES, of_members, strict=True))
    assert close(scores(trained.model, method="tracin"), expected) < 1e-4


def test_trak_takes_its_linear_models_at_the_checkpoints(client, trained, scores):
    settings = {"method": "trak", "rank": 8}
    alone = trained.register("trak-one", trained.last, checkpoints=[undue.Checkpoint(trained.nets[0], 1.0)])
    at_first = scores(trained.members[0], **settings)
    assert close(scores(alone, **settings), at_first) < 1e-4
    assert close(scores(trained.model, **settings), at_first) > 1e-2
    with pytest.raises(undue.InvalidArgument, match="over all checkpoints already"):
        scores(trained.model, ensemble=True, **settings)


def test_an_ensemble_of_one_is_that_model_with_its_running_statistics(trained, scores, of_members):
    alone = trained.register("one", trained.last, checkpoints=[undue.Checkpoint(trained.nets[0], 1.0)])
    assert close(scores(alone, ensemble=True), of_members[0]) < 1e-6
    still = deepcopy(trained.nets[0])
    still.norm.load_state_dict(trained.last.norm.state_dict())
    assert close(scores(trained.register("still", still)), of_members[0]) > 1e-2


def test_self_influence_of_an_ensemble_is_the_mean_too(client, trained):
    def ask(model, **settings):
        found = client.self_influence(model, train=trained.train, method="grad_dot", **settings).result(timeout=120)
        return np.array([one.score for one in sorted(found.examples, key=lambda one: one.row)])

    expected = np.mean([ask(one) for one in trained.members], axis=0)
    assert close(ask(trained.model, ensemble=True), expected) < 1e-5


def test_an_estimate_counts_the_members(client, trained):
    asked = {"train": trained.train, "test": trained.train, "method": "exact"}
    one, all_of_them = (client.estimate(trained.model, ensemble=ensemble, **asked) for ensemble in (False, True))
    assert 2 * one.seconds < all_of_them.seconds <= len(FORMS) * one.seconds
    assert all_of_them.peak_bytes > one.peak_bytes


def test_answers_over_checkpoints_say_which(client, trained):
    asked = {"train": trained.train, "test": trained.train, "rows": ROWS, "method": "grad_dot"}
    found = client.influence(trained.model, ensemble=True, seed=7, **asked).result(timeout=120).diagnostics
    assert "averaged over" in found.estimand
    assert found.seed == 7
    assert len(found.digests["checkpoints"]) == 64
    alone = client.influence(trained.members[0], **asked).result(timeout=120).diagnostics
    assert "checkpoints" not in alone.digests


def test_an_onnx_model_takes_checkpoints_of_its_torch_original(client, trained, scores, of_members, tmp_path):
    model = client.models.register(
        "by-onnx",
        as_onnx(trained.last, tmp_path),
        objective=OBJECTIVE,
        checkpoints=[undue.Checkpoint(trained.sources[1], 1.0), undue.Checkpoint(trained.nets[0], 1.0)],
    )
    assert close(scores(model, ensemble=True), (of_members[1] + of_members[0]) / 2) < 1e-5


@pytest.mark.parametrize("place", range(len(FORMS)), ids=[form.__name__[3:] for form in FORMS])
def test_a_recipe_begins_with_weights_in_every_form(trained, place):
    recipe = undue.Training(
        optimizer="adam",
        lr=1e-3,
        schedule=None,
        epochs=20,
        batch_size=128,
        seed=0,
        init=trained.sources[place],
    )
    made = trained.register("recipe", trained.last, training=recipe).training
    assert (made.optimizer, made.lr, made.epochs, made.batch_size, made.seed) == ("adam", 1e-3, 20, 128, 0)
    assert (made.schedule, made.betas, made.eps, made.init) == (None, (0.9, 0.999), 1e-8, "weights")


def test_a_recipe_of_sgd_that_draws_its_weights(client, trained):
    recipe = undue.Training("sgd", 0.1, epochs=2, schedule="cosine", momentum=0.9, seed=5, init="torch")
    made = trained.register("drawn", trained.last, training=recipe)
    assert made.training == recipe
    assert client.models.get("drawn").training == recipe
    assert trained.register("recipe", trained.last).training is None


def saved(tensors):
    content = io.BytesIO()
    torch.save(tensors, content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("change", "parameter", "said"),
    [
        (lambda state: state.pop("last.bias"), "last.bias", r"none are given of that name, but of hidden\.bias"),
        (lambda state: state.pop("norm.running_var"), "norm.running_var", "none are given of that name"),
        (lambda state: state.update({"last.bias": torch.zeros(4)}), "last.bias", r"\(3,\).*\(4,\)"),
        (lambda state: state.update({"last.bias": torch.zeros(3, dtype=torch.int64)}), "last.bias", "int64"),
        (lambda state: state.update({"more": torch.zeros(1)}), "more", "no weights 'more'"),
    ],
    ids=["missing", "no-statistics", "shape", "integers", "extra"],
)
def test_weights_of_another_model_are_refused_by_place_and_name(trained, change, parameter, said):
    state = trained.nets[0].state_dict()
    change(state)
    checkpoints = [undue.Checkpoint(trained.nets[1], 1.0), undue.Checkpoint(state, 1.0)]
    with pytest.raises(undue.JobFailed, match=rf"checkpoints\[1\]: .*{said}") as caught:
        trained.register("wrong", trained.last, checkpoints=checkpoints)
    assert caught.value.reason == "WEIGHTS_MISMATCH"
    assert (caught.value.metadata["parameter"], caught.value.metadata["part"]) == (parameter, "checkpoints[1]")
    with pytest.raises(undue.JobFailed, match=r"training\.init: ") as caught:
        trained.register("wrong", trained.last, training=undue.Training("sgd", 0.1, epochs=1, init=state))
    assert caught.value.reason == "WEIGHTS_MISMATCH"


def test_what_is_no_weights_is_refused(client, trained, tmp_path):
    (tmp_path / "pickle.safetensors").write_bytes(saved(trained.nets[0].state_dict()))
    with pytest.raises(undue.JobFailed, match=r"(?s)checkpoints\[0\]: .*save_file") as caught:
        trained.register("wrong", trained.last, checkpoints=[undue.Checkpoint(tmp_path / "pickle.safetensors", 1.0)])
    assert caught.value.reason == "MODEL_UNSAFE"
    holes = trained.nets[0].state_dict() | {"last.bias": torch.tensor([0.0, torch.nan, 0.0])}
    with pytest.raises(undue.JobFailed, match=r"checkpoints\[0\]: .*'last\.bias' hold NaN") as caught:
        trained.register("wrong", trained.last, checkpoints=[undue.Checkpoint(holes, 1.0)])
    assert caught.value.reason == "NON_FINITE_DATA"
    proto = onnx.load(trained.sources[1])
    proto.graph.initializer[0].name += "-other"
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(undue.JobFailed, match=r"checkpoints\[0\]: ") as caught:
        trained.register("wrong", trained.last, checkpoints=[undue.Checkpoint(tmp_path / "other.onnx", 1.0)])
    assert caught.value.reason in ("MODEL_MALFORMED", "WEIGHTS_MISMATCH")


class Tied(nn.Module):
    """Two layers of the same weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_tied_weights_come_once_or_twice(trained, scores, tmp_path):
    torch.manual_seed(0)
    last, epoch = Tied(), Tied()
    save_model(epoch, str(tmp_path / "epoch.safetensors"))
    expected = scores(trained.register("tied-epoch", epoch))
    for source in (tmp_path / "epoch.safetensors", epoch):
        model = trained.register("tied", last, checkpoints=[undue.Checkpoint(source, 1.0)])
        assert close(scores(model, ensemble=True), expected) < 1e-6
    state = epoch.state_dict()
    parted = state | {"second.weight": state["first.weight"] + 1}
    with pytest.raises(undue.JobFailed, match="are the same weights of the model") as caught:
        trained.register("tied", last, checkpoints=[undue.Checkpoint(parted, 1.0)])
    assert caught.value.reason == "WEIGHTS_MISMATCH"


def test_a_model_without_checkpoints_has_nothing_to_average(client, trained, scores):
    for settings in ({"ensemble": True}, {"method": "tracin"}):
        with pytest.raises(undue.FailedPrecondition) as caught:
            scores(trained.members[0], **settings)
        assert caught.value.reason == "CHECKPOINTS_MISSING"


def test_the_method_is_chosen_where_none_is_named(client, trained):
    network = client.influence(trained.model, train=trained.train, test=trained.train, rows=[0])
    head = trained.register("head", trained.last, parameters=["last.*"])
    linear = client.self_influence(head, train=trained.train)
    there_are = {one.name for one in client.server_info().methods}
    assert network.spec["method"] == ("gauss_newton" if "gauss_newton" in there_are else "cg")
    assert linear.spec["method"] == "exact"
    network.cancel()
    linear.cancel()


def test_scores_over_some_parameters_are_those_of_a_model_that_registered_them(trained, scores):
    head = trained.register("head", trained.last, parameters=["last.*"])
    found = scores(trained.model, method="exact", parameters=["last.*"])
    assert close(found, scores(head, method="exact")) < 1e-6


def test_the_same_checkpoint_twice_counts_twice(client, trained, scores, of_members):
    both = [undue.Checkpoint(trained.sources[0], 1.0), undue.Checkpoint(trained.sources[2], 1.0)]
    model = trained.register("twice", trained.last, checkpoints=[*both, both[0], both[1]])
    assert len(model.checkpoints) == 4
    assert close(scores(model, ensemble=True), (of_members[0] + of_members[2]) / 2) < 1e-5
