"""Two models side by side: overlaps against their definitions, ablations against written-out algebra, distances."""

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from undue_service.domain.errors import InvalidArgument, Reason, ResourceExhausted
from undue_service.engine.comparison.ablation import residual_norms, variants
from undue_service.engine.comparison.compare import CompareQuestion, Side, agreement, compare
from undue_service.engine.comparison.distance import distances
from undue_service.engine.comparison.overlap import jaccard, leading, pearson, rank_biased_overlap, spearman
from undue_service.engine.data import TensorRows
from undue_service.engine.methods import Problem

lists = st.lists(st.integers(0, 12), unique=True, max_size=12)


@given(a=lists, b=lists, p=st.floats(0.05, 0.98))
def test_rank_biased_overlap_is_the_sum_over_all_depths(a, b, p):
    """Webber et al. 2010: (1−p) Σ_d p^{d−1} A_d, where beyond a list's end it agrees as it did so far."""
    short, long = sorted((a, b), key=len)
    if not short:
        assert rank_biased_overlap(a, b, p) == (1.0 if not long else 0.0)
        return
    s, end = len(short), len(long)
    at_end = len(set(short) & set(long[:s])) / s
    total = 0.0
    for depth in range(1, 4000):
        seen = min(depth, end)
        shared = len(set(short[:seen]) & set(long[:seen])) + max(0, seen - s) * at_end
        total += (1 - p) * p ** (depth - 1) * shared / seen
    assert rank_biased_overlap(a, b, p) == pytest.approx(total, abs=1e-9)
    assert rank_biased_overlap(a, b, p) == pytest.approx(rank_biased_overlap(b, a, p), abs=1e-12)
    assert rank_biased_overlap(a, a, p) == pytest.approx(1)


@given(a=lists, b=lists)
def test_jaccard_is_shared_over_all(a, b):
    union = [x for x in range(13) if x in a or x in b]
    want = sum(x in a and x in b for x in union) / len(union) if union else 1
    assert jaccard(a, b) == want


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=30),
    st.sampled_from([1.0, 1e-200, 1e150]),
)
def test_correlations_are_those_of_scipy(pairs, scale):
    a, b = np.array(pairs, dtype=np.float64).T * scale
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert pearson(a, b) is None
        assert spearman(a, b) is None
        return
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a / scale, b / scale).statistic, abs=1e-9)
    assert pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a / scale, b / scale).statistic, abs=1e-9)


@given(st.lists(st.integers(-3, 3), max_size=20), st.integers(1, 8))
def test_leading_rows_are_those_of_a_whole_sort(values, k):
    scores = np.array(values, dtype=np.float32)
    for sign in (1, -1):
        there = [i for i in range(len(values)) if sign * values[i] > 0]
        assert leading(scores, k, sign) == sorted(there, key=lambda i: (-sign * values[i], i))[:k]


def test_distances_are_euclidean_over_all_named_inputs():
    g = torch.Generator().manual_seed(0)
    inputs = {"a": torch.randn(40, 3, 2, generator=g), "b": torch.randint(0, 255, (40, 5), generator=g)}
    train, test = TensorRows(inputs), TensorRows({name: one[:7] for name, one in inputs.items()})
    whole = np.concatenate([inputs["a"].flatten(1).double().numpy(), inputs["b"].double().numpy()], axis=1)
    want = scipy.spatial.distance.cdist(whole[[2, 5]], whole)
    for memory in (1, 2**30):
        found = distances(train, test, [2, 5], ["a", "b"], memory_bytes=memory)
        np.testing.assert_allclose(found, want, rtol=1e-6)
    assert found[0, 2] == found[1, 5] == 0
    only = scipy.spatial.distance.cdist(whole[[2], :6], whole[:, :6])
    np.testing.assert_allclose(distances(train, test, [2], ["a"]), only, rtol=1e-6)


def test_an_input_that_is_not_there_has_no_distance():
    rows = TensorRows({"a": torch.zeros(3, 2)})
    with pytest.raises(InvalidArgument) as caught:
        distances(rows, rows, [0], ["pixels"])
    assert caught.value.reason is Reason.INPUT_MISMATCH
    assert "'a'" in str(caught.value)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_logistic", "squared_error"])
@pytest.mark.parametrize("head", [True, False])
def test_ablations_are_influence_with_a_part_left_out(case, loss, head):
    """With every term from autograd: ∇mᵀ A Jᵀ r for A = H⁻¹ or I and r as it is or one long."""
    one = case(loss, head=head, weighted=True)
    objective, rows, n = one.objective, one.rows, len(one.x)
    damping = 0.0 if head else 5.0
    problem = Problem(objective, rows, damping=damping, leverage_correction=False if head else None)
    found = compare(rows, Side(problem, "exact"), None, CompareQuestion([0, 4], top_k=5, distance=False))
    batch = objective.place(next(iter(rows.batches(n))))
    outputs = lambda theta: objective.outputs(theta, batch.inputs)  # noqa: E731
    J = torch.func.jacrev(outputs)(objective.theta)
    f = outputs(objective.theta).detach().requires_grad_()
    (r,) = torch.autograd.grad(objective.loss.losses(f, batch.targets).sum(), f)
    total = lambda theta: batch.weights @ objective.losses(theta, batch) / n  # noqa: E731
    H = torch.func.hessian(total)(objective.theta) + torch.diag(objective.l2 + damping)
    m = torch.func.jacrev(lambda theta: objective.losses(theta, batch))(objective.theta)[[0, 4]]
    scaled = r / r.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(residual_norms(objective, rows, memory_bytes=1), r.norm(dim=1), rtol=1e-12)

    def score(inverse, residuals):
        return ((m @ inverse) @ torch.einsum("icp,ic->pi", J, residuals) * batch.weights / n).numpy()

    identity = torch.eye(len(H), dtype=torch.float64)
    want = {
        "no_curvature": score(identity, r),
        "no_loss": score(torch.linalg.inv(H), scaled),
        "neither": score(identity, scaled),
    }
    full = score(torch.linalg.inv(H), r)
    made = variants(full.astype(np.float32), want["no_curvature"].astype(np.float32), r.norm(dim=1).numpy())
    for name, scores in want.items():
        np.testing.assert_allclose(made[name], scores, rtol=1e-4, atol=1e-6 * np.abs(scores).max())
    for t in range(2):
        assert [each.variant for each in found.side.ablations[t]] == list(want)
        for each in found.side.ablations[t]:
            reference = agreement(full[t], want[each.variant][t], 5)
            assert each.agreement.spearman == pytest.approx(reference.spearman, abs=2e-3)
            assert each.agreement.jaccard_helpful == reference.jaccard_helpful
            assert each.agreement.overlap_harmful == pytest.approx(reference.overlap_harmful, abs=1e-9)


def test_two_models_side_by_side(case):
    heads = [case("cross_entropy", l2=l2) for l2 in (0.1, 3.0)]
    rows = heads[0].rows
    sides = [Side(Problem(one.objective, rows), "exact") for one in heads]
    asked = CompareQuestion([3, 7], top_k=4, scatter=5, seed=1)
    found = compare(rows, *sides, asked)
    alone = [compare(rows, side, None, asked) for side in sides]
    assert found.distance_inputs == ("x",)
    for t in range(2):
        for beside, by_itself in ((found.side, alone[0].side), (found.other, alone[1].side)):
            np.testing.assert_array_equal(beside.attribution.helpful_rows, by_itself.attribution.helpful_rows)
            assert beside.ablations[t] == by_itself.ablations[t]
            assert beside.nearness[t] == by_itself.nearness[t]
        lists = [side.attribution.helpful_rows[t].tolist() for side in (found.side, found.other)]
        assert found.agreements[t].jaccard_helpful == jaccard(*lists)
        assert found.agreements[t].overlap_helpful == pytest.approx(rank_biased_overlap(*lists))
        scatter = found.scatters[t]
        listed = {*lists[0], *lists[1]}
        assert listed <= set(scatter.rows)
        assert len(scatter.rows) >= 5
        assert len(scatter.rows) == len(scatter.scores) == len(scatter.other_scores) == len(scatter.distances)
        want = (heads[0].x[asked.rows[t]] - heads[0].x[list(scatter.rows)]).norm(dim=1)
        np.testing.assert_allclose(scatter.distances, want, rtol=1e-6)
        assert 0 < found.agreements[t].spearman < 1
    same = compare(rows, sides[0], sides[0], asked).agreements[0]
    assert (same.jaccard_helpful, same.jaccard_harmful) == (1, 1)
    assert [same.spearman, same.overlap_helpful, same.overlap_harmful] == pytest.approx([1, 1, 1])


def test_a_relative_score_has_no_parts(case):
    one = case("cross_entropy")
    found = compare(one.rows, Side(Problem(one.objective, one.rows), "grad_cos"), None, CompareQuestion([0]))
    assert found.side.ablations == ((),)
    assert "grad_cos" in found.warnings[0]


def test_what_would_not_fit_is_refused_at_once(case):
    one = case("cross_entropy")
    side = Side(Problem(one.objective, one.rows, memory_bytes=4 * 5 * 30 * 7 + 1), "exact")
    with pytest.raises(ResourceExhausted, match="ask for 7 rows or fewer"):
        compare(one.rows, side, None, CompareQuestion(list(range(8))))
