"""Every method of the registry: against its formula written out, and under what must not change a score."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from undue_service.domain.errors import InvalidArgument
from undue_service.domain.methods import METHODS
from undue_service.engine.attribution import influence, self_influence
from undue_service.engine.data import TensorRows
from undue_service.engine.methods import REGISTRY, Checkpoint, Problem
from undue_service.engine.methods.trak import RIDGE
from unit.engine.dense import gauss_newton, gradients, hessian, lists_to_matrix, other_weights
from unit.engine.kronecker import ekfac

KINDS = [(loss, head) for loss in ("cross_entropy", "binary_logistic", "squared_error") for head in (True, False)]
KINDS.append(("smooth_hinge", True))
DAMPING = 2.0
SETTINGS: dict[str, dict[str, float]] = {
    "cg": {"tolerance": 1e-13},
    "lissa": {"tolerance": 1e-13},
    "arnoldi": {"rank": 1000},
}
RATES = (0.1, 0.4)


def asked_of(c, method):
    """The settings under which a method meets its formula to rounding."""
    found = SETTINGS.get(method, {})
    if REGISTRY[method].spec.needs_checkpoints:
        several = zip(other_weights(c.objective, 2), RATES, strict=True)
        found = found | {"checkpoints": [Checkpoint(*one) for one in several]}
    return {"method": method, "damping": DAMPING, **found}


def influences(g, w, H):
    return (w[:, None] / len(g) * (g @ torch.linalg.solve(H, g.T))).T


def cosines(g, w, H):
    unit = g / g.norm(dim=1, keepdim=True)
    return (unit * (w > 0)[:, None] @ unit.T).T


def steps(c, w):
    found = 0.0
    for weights, rate in zip(other_weights(c.objective, 2), RATES, strict=True):
        g = gradients(replace(c, objective=c.objective.at(weights)))
        found = found + rate * (g @ g.T) * w / len(g)
    return found


def likenesses(c, w):
    """The network's last layer reads tanh of its first one's outputs; a head reads its inputs."""
    h = c.x
    if not c.objective.program.parameters.keys() <= {"weight", "bias"}:
        first = [c.objective.program.parameters[name] for name in ("0.weight", "0.bias")]
        h = torch.tanh(h @ first[0].T + first[1])
    f = c.objective.outputs(c.objective.theta, c.objective.place(next(c.rows.batches(1000))).inputs).requires_grad_()
    y = c.objective.place(next(c.rows.batches(1000))).targets
    (r,) = torch.autograd.grad(c.objective.loss.losses(f, y).sum(), f)
    return torch.nn.functional.cosine_similarity(h[:, None], h[None], dim=2) * torch.sign(r @ r.T) * (w > 0)


def ekfac_curvature(c, w):
    own = c.objective.program.parameters
    is_head = len(own) == 2
    layers = [torch.nn.Linear(*own[f"{at}weight"].shape[::-1]) for at in ([""] if is_head else ["0.", "2."])]
    module = layers[0] if is_head else torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])
    module.load_state_dict(dict(own))
    curvature = ekfac(c.objective, module, c.objective.place(next(c.rows.batches(1000))), w)
    return curvature + DAMPING * torch.eye(len(curvature), dtype=torch.float64)


def relative(c, w, power=2):
    """H⁻¹'s columns over their norms; with power 1, over the root of the gradient's product with them."""
    g = gradients(c)
    H = hessian(c, DAMPING) if c.objective.head is not None else ekfac_curvature(c, w)
    moves = torch.linalg.solve(H, g.T)
    sizes = (moves if power == 2 else g.T).mul(moves).sum(0).sqrt()
    return g @ moves / sizes.where(sizes > 0, 1) * (w > 0)


def linear_model(c, w):
    """The last of `trak`'s docstring: here no gradient is projected, as there are fewer parameters than dimensions."""
    batch = c.objective.place(next(c.rows.batches(1000)))

    def output(theta, row):
        if c.objective.spec.name == "squared_error":
            return c.objective.outputs(theta, row.inputs)
        return c.objective.measurement(theta, row, "margin")[:, None]

    theta = c.objective.theta.clone().requires_grad_()
    f = output(theta, batch)
    phi = torch.stack([torch.autograd.grad(one, theta, retain_graph=True)[0] for one in f.flatten()])
    phi = phi.view(*f.shape, -1)
    G = torch.einsum("i,ifp,ifq->pq", w, phi, phi)
    G = G + RIDGE * G.diagonal().mean() * torch.eye(len(G), dtype=torch.float64)
    g = gradients(c)
    return g @ torch.linalg.solve(G, g.T) * w


FORMULAS = {
    "exact": influences,
    "cg": influences,
    "lissa": influences,
    "arnoldi": influences,
    "grad_dot": lambda g, w, H: (w[:, None] / len(g) * (g @ g.T)).T,
    "grad_cos": cosines,
}
"""(∇ℓ (n, P), weights (n,), damped curvature) → scores (m, n), of the training rows as test rows."""

OF_GAUSS_NEWTON = {"lissa", "arnoldi"}
"""Methods whose curvature is that; the others' is the Hessian."""

FORMULAS_OF_A_CASE = {
    "gauss_newton": lambda c, w: influences(gradients(c), w, gauss_newton(c, DAMPING)),
    "ekfac": lambda c, w: influences(gradients(c), w, ekfac_curvature(c, w)),
    "relatif": relative,
    "trak": linear_model,
    "tracin": steps,
    "representation": likenesses,
}
"""The same of what more than gradients and the Hessian take: (case, weights (n,)) → scores (m, n)."""


def formula(c, method):
    w = torch.ones(len(c.x), dtype=torch.float64) if c.weights is None else c.weights
    if method in FORMULAS_OF_A_CASE:
        return FORMULAS_OF_A_CASE[method](c, w).numpy()
    curvature = gauss_newton if method in OF_GAUSS_NEWTON else hessian
    return FORMULAS[method](gradients(c), w, curvature(c, DAMPING)).numpy()


def test_the_registry_and_the_domain_name_the_same_methods():
    assert {name: method.spec for name, method in REGISTRY.items()} == dict(METHODS)
    assert set(FORMULAS) | set(FORMULAS_OF_A_CASE) == set(METHODS), "a method without a formula here is not tested"


@pytest.mark.parametrize(("loss", "head"), KINDS)
@pytest.mark.parametrize("method", REGISTRY)
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_the_formula(case, loss, head, method, weighted):
    c = case(loss, head, weighted=weighted)
    settings = asked_of(c, method) | {"leverage_correction": False}
    found = influence(c.objective, c.rows, c.rows, top_k=None, **settings)
    expected = formula(c, method)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-6 * abs(expected).max())
    np.testing.assert_allclose(found.helpful_scores[:, 0], expected.max(axis=1).clip(0), rtol=1e-9)
    np.testing.assert_allclose(found.harmful_scores[:, 0], expected.min(axis=1).clip(None, 0), rtol=1e-9)
    if not REGISTRY[method].spec.has_self_influence:
        return
    own = self_influence(c.objective, c.rows, **settings)
    order = np.argsort(-np.diag(expected), kind="stable")
    np.testing.assert_allclose(own.scores, np.diag(expected)[order], rtol=1e-9)
    assert own.train.rows.tolist() == order.tolist()


@pytest.mark.parametrize(("loss", "head"), KINDS)
@pytest.mark.parametrize("method", REGISTRY)
def test_blocks_row_order_and_memory_change_no_score(case, loss, head, method):
    c = case(loss, head, weighted=True)
    n = len(c.x)
    settings = asked_of(c, method) | {"top_k": n}
    whole = lists_to_matrix(influence(c.objective, c.rows, c.rows, **settings), n)
    small = influence(c.objective, c.rows, c.rows, **settings, memory_bytes=12_000)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    shuffled = TensorRows({"x": c.x[order]}, c.y[order], c.weights[order])
    mixed = lists_to_matrix(influence(c.objective, shuffled, c.rows, **settings), n)
    scale = abs(whole).max()
    assert abs(lists_to_matrix(small, n) - whole).max() < 1e-10 * scale
    assert abs(mixed - whole[:, order.numpy()]).max() < 1e-10 * scale
    some = influence(c.objective, c.rows, c.rows, rows=[7, 2, 7], **settings)
    assert abs(lists_to_matrix(some, n) - whole[[7, 2, 7]]).max() < 1e-10 * scale
    assert some.test.rows.tolist() == [7, 2, 7]
    if not REGISTRY[method].spec.has_self_influence:
        return
    selves = [self_influence(c.objective, c.rows, **settings, memory_bytes=m).scores for m in (12_000, 2**30)]
    np.testing.assert_allclose(*selves, rtol=1e-10)


LINEAR_IN_THE_TEST_GRADIENT = set(METHODS) - {"grad_cos"}


@pytest.mark.parametrize(("loss", "head"), KINDS)
@pytest.mark.parametrize("method", REGISTRY)
@pytest.mark.parametrize("memory", [2**30, 12_000], ids=["one block", "streamed"])
def test_the_mean_over_test_rows_is_the_score_of_the_mean_cost(case, loss, head, method, memory):
    c = case(loss, head, weighted=True)
    n = len(c.x)
    settings = asked_of(c, method) | {"top_k": n}
    rows = [3, 0, 11, 3, 29]
    found = influence(c.objective, c.rows, c.rows, rows=rows, aggregate="mean", **settings, memory_bytes=memory)
    each = lists_to_matrix(influence(c.objective, c.rows, c.rows, rows=rows, **settings), n)
    if method in LINEAR_IN_THE_TEST_GRADIENT:
        expected = each.mean(axis=0, keepdims=True)
    else:
        g = gradients(c)
        mean = g[rows].mean(0)
        expected = ((g / g.norm(dim=1, keepdim=True)) @ (mean / mean.norm())).numpy()[None]
        assert abs(expected - each.mean(axis=0)).max() > 1e-3, "the mean of cosines is something else"
    assert found.helpful_rows.shape == (1, n)
    assert abs(lists_to_matrix(found, n) - expected).max() <= 1e-12 * abs(expected).max()
    assert found.test.rows.tolist() == rows
    assert found.aggregate == "mean"
    assert found.diagnostics.estimand.endswith("the mean over 5 test rows")


@pytest.mark.parametrize("method", REGISTRY)
def test_the_mean_over_all_rows_is_one_line_of_the_matrix(case, method):
    c = case("cross_entropy")
    settings = asked_of(c, method)
    matrix = influence(c.objective, c.rows, c.rows, aggregate="mean", top_k=None, measurement="margin", **settings)
    lists = influence(c.objective, c.rows, c.rows, aggregate="mean", top_k=30, measurement="margin", **settings)
    assert matrix.scores.shape == (1, 30)
    np.testing.assert_allclose(matrix.scores, lists_to_matrix(lists, 30), rtol=1e-6, atol=1e-12)
    assert matrix.test.rows.tolist() == list(range(30))


@pytest.mark.parametrize("method", REGISTRY)
def test_the_sign_is_that_of_removal(case, method):
    """A row helps its own prediction, and its copy with another label harms it."""
    c = case("cross_entropy")
    x, y = torch.cat([c.x, c.x[:1]]), torch.cat([c.y, (c.y[:1] + 1) % 3])
    train = TensorRows({"x": x}, y)
    settings = asked_of(c, method) | {"damping": None, "leverage_correction": False}
    found = influence(c.objective, train, c.rows, rows=[0], top_k=None, **settings)
    assert found.scores[0, 0] > 0 > found.scores[0, -1]


@pytest.mark.parametrize("method", REGISTRY)
def test_a_zero_gradient_scores_zero(case, method):
    """A regression row that is met exactly, a test row likewise, and a row of weight zero."""
    c = case("squared_error", head=False)
    y = c.y.clone()
    y[3] = c.objective.outputs(c.objective.theta, {"x": c.x[3:4]} | {"input": c.x[3:4]})[0]
    weights = torch.ones(len(y), dtype=torch.float64)
    weights[5] = 0
    rows = TensorRows({"x": c.x}, y, weights)
    settings = asked_of(c, method)
    if REGISTRY[method].spec.needs_checkpoints:
        settings["checkpoints"] = [Checkpoint(c.objective.program.parameters, 1.0)]  # it is met exactly there only
    scores = influence(c.objective, rows, rows, top_k=None, **settings).scores
    assert (scores[3] == 0).all()
    assert (scores[:, [3, 5]] == 0).all()
    assert np.isfinite(scores).all()
    assert (scores[0, [0, 1, 2]] != 0).all()


def test_the_cosine_is_one_of_a_row_with_itself_and_ranks_nothing(case):
    c = case("cross_entropy", weighted=True)
    found = influence(c.objective, c.rows, c.rows, method="grad_cos", top_k=None)
    np.testing.assert_allclose(np.diag(found.scores), 1, rtol=1e-6)
    assert abs(found.scores).max() <= 1
    method = REGISTRY["grad_cos"]
    problem = Problem(c.objective, c.rows)
    [(block, _)] = method.self_score(method.fit(problem), problem)
    assert (block.scores == 1).all()
    with pytest.raises(InvalidArgument, match="'exact'") as error:
        self_influence(c.objective, c.rows, method="grad_cos")
    assert error.value.violations[0].field == "method"
