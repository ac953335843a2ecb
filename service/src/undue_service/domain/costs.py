"""What a job would take: floating-point operations and bytes of each method, at the speed that was measured.

P selected parameters, C outputs, n training rows, m test rows. A pass over the training rows costs n row gradients, as
timed at registration. The constants were fitted to jobs on digits, on two idle cores, where the estimates came to
0.5–2.2 times the seconds and 0.8–1.1 times the memory measured (tests/e2e/test_estimates.py, which allows for a machine
that is busy).
"""

from dataclasses import dataclass, replace

from .comparison import Compare
from .fidelity import Fidelity
from .fidelity_settings import FidelitySettings
from .group_influence import GroupInfluence
from .influence import Influence
from .leverage import Leverage
from .mislabels import Mislabels
from .perturb_jobs import Perturb
from .reports import ModelReport, Speed
from .retraining import Retrain
from .self_influence import SelfInfluence
from .specs import RequestedJob, ScoringJob, TrainingSpec

BLOCK_BYTES = 2**30
"""The engine's budget for the intermediate values of a block of rows, unless the operator sets another."""
SERVE_BYTES = 2**31
"""What the indexes that one runner holds in memory may take, with their models, unless the operator sets another."""
BLOCK_ROWS = 4096
QUERIES_TOGETHER = 1024
SOLVE_ITERATIONS = 30
"""Of conjugate gradients on one column; the true number is about √κ and not known before. A block ends after about P
over its columns."""
LISSA_PASSES = 40
"""Of all rows for one column: some ten, but products with few rows each are slow. More where κ is large."""
LANCZOS_STEPS = 20
ARNOLDI_RANK = 128
"""Unless asked otherwise; about twice as many products find the eigenpairs."""
FIT_PRODUCTS = 24
"""What a fit without some rows costs, in products of the features with its coefficients: three Newton steps, each some
products, values and what lies between them.
"""
EXACT_FISHER_OUTPUTS = 32
"""Outputs up to which EK-FAC takes a gradient for each."""
EKFAC_PRODUCTS = 3
"""For each of these gradients and parameter: 2–6 in float32 for layers of 64 to 784 inputs, at twice the speed."""
SCORE_SHARES = {"ekfac": 0.05, "relatif": 0.1, "gauss_newton": 0.05, "tracin": 0.05, "trak": 0, "representation": 0}
"""Of two products for each pair and parameter: thin products and grams of factors, in float32."""
ROOT_ROWS = 2_000
"""Rows of its square root that `gauss_newton` keeps where none are asked for."""
FACTOR_NUMBERS = 4
"""Times √P: of a row's gradient as factors."""
PROJECTED = 512
"""Dimensions of `trak` where none are asked for."""
EFFICIENCY = 0.4
"""Of the products of a job, beside one large square product."""
COPY_ROW = 0.5
"""What a row of one copy of a model in training costs, in row gradients."""
COPY_NUMBER_SECONDS = 5e-9
"""Of a step of one copy's optimiser, for each of its numbers."""
STEP_SECONDS = 1e-3
"""Of a step of some copies, beside what grows with them."""
COPY_NUMBERS = 8_000_000
"""Of the copies that are trained together."""
SCORE_SECONDS = 5e-8
"""Of ranking one score among the most helpful and the most harmful."""
RESAMPLE_SECONDS = 1e-8
"""Of one score in one resample of its group."""
SORT_SECONDS = 1e-6
"""Of one score in a rank correlation with another."""
FLOAT64 = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would take."""

    rows: int
    """Rows that are read, each once."""
    peak_bytes: int
    """Memory of the runner at its peak."""
    seconds: float
    """Time of computing, once a runner has started and opened the model."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is done beside reading the data, and what is held meanwhile."""

    passes: float
    """Over the training rows, each a gradient a row."""
    flops: float = 0
    held: float = 0
    """Bytes."""
    products: float = 0
    """Hessian-vector products over all training rows, of a model that is no linear head."""
    columns: float = 0
    """As many of them as are made in one pass."""
    scores: float = 0
    """Numbers that are ranked."""
    seconds: float = 0
    """Of what is none of these."""


def estimate(
    spec: RequestedJob,
    model: ModelReport,
    speed: Speed,
    train_rows: int,
    test_rows: int,
    *,
    registered: ModelReport | None = None,
    training: TrainingSpec | None = None,
    members: int = 1,
    block_bytes: int = BLOCK_BYTES,
) -> Estimate:
    """Return what a job would take.

    Args:
        spec: the job.
        model: with those parameters selected that scores run over.
        speed: as it was measured.
        train_rows: n.
        test_rows: that are explained or measured; 0 for a job without.
        registered: the model with those selected that are trained again, where they are others.
        training: the recipe of a model that is no linear head.
        members: how many checkpoints scores run over, each a model with factors of its own; 1 without any.
        block_bytes: the engine's budget.
    """
    n, m = train_rows, 1 if isinstance(spec, Influence) and spec.aggregate else test_rows
    trained = _Trained(registered or model, training, speed, n, m, block_bytes)
    work = _work(spec, model, trained, members)
    return total(work, model, speed, n, test_rows, block_bytes)


def _work(spec: RequestedJob, model: ModelReport, trained: "_Trained", members: int) -> Work:
    """Return what a job of each kind does; its scores are made by each of `members` checkpoints."""
    n, m, block_bytes = trained.n, trained.m, trained.block_bytes
    match spec:
        case Influence():
            scoring = _times(members, _influence(spec, model, n, m, block_bytes))
            if spec.fidelity is None:
                return scoring
            return _and(replace(scoring, held=scoring.held + 4 * n * m), _fidelity(spec.fidelity, trained))
        case SelfInfluence(method=method):
            return _times(members, solving(spec, method, model, n, n, block_bytes))
        case Retrain(without=without, counterfactuals=edits):
            return _retraining(trained, len(without) + len(edits) + 1, spec.seeds)
        case Fidelity():
            scoring = _times(members, _influence(spec.scoring(), model, n, m, block_bytes))
            return _and(scoring, _fidelity(spec.settings, trained))
        case Mislabels():
            return _mislabels(spec, model, trained)
        case Leverage():
            return _closed_forms(model, n, spec.dfbeta)
        case Perturb():
            return _perturbing(spec, trained)
        case GroupInfluence():
            scoring = _times(members, _group_influence(spec, model, n, block_bytes))
            return _and(scoring, _retraining(trained, 1 + spec.retrains, spec.seeds)) if spec.retrains else scoring
        case Compare():
            return _times(members, _comparison(spec, model, n, m, block_bytes))


def total(work: Work, model: ModelReport, speed: Speed, n: int, test_rows: int, block_bytes: int) -> Estimate:
    """Return what a piece of work over n training rows comes to."""
    seconds = (
        work.seconds + (work.passes * n + test_rows) * speed.row_seconds + work.products * n * speed.product_seconds
    )
    seconds += work.flops / (EFFICIENCY * speed.flops_per_second) + work.scores * SCORE_SECONDS
    rows = min(n, BLOCK_ROWS)
    block: float = min(block_bytes, rows * speed.row_bytes)
    if work.products:
        # `Hessian` plans for eight times a row's intermediate values in each column, and uses a good half of that. A
        # row of factored gradients takes four times them, and about once again for the factors.
        values = speed.row_bytes / FLOAT64 / 5
        block = min(0.6 * block_bytes, work.columns * FLOAT64 * (8 * rows * values + 4 * model.dim))
    return Estimate(n + test_rows, int(speed.base_bytes + block + work.held), seconds)


def _influence(spec: Influence | Compare, model: ModelReport, n: int, m: int, block_bytes: int) -> Work:
    """Return what scores for m rows take."""
    work = solving(spec, spec.method, model, n, m, block_bytes)
    together = min(m, QUERIES_TOGETHER)
    scoring = min(block_bytes / 2, FLOAT64 * min(n, BLOCK_ROWS) * (model.outputs_per_row + 2) * together)
    matrix = 4 * n * m if isinstance(spec, Compare) or spec.top_k is None else 0
    held = work.held + scoring + matrix + FLOAT64 * 2 * model.dim * together
    products = 2 * n * model.dim * m * SCORE_SHARES.get(spec.method, 1.0)
    return replace(work, passes=work.passes + 1, flops=work.flops + products, held=held, scores=n * m)


def beside(one: Estimate, other: Estimate) -> Estimate:
    """Return what two models take of the same rows, one after the other."""
    return Estimate(one.rows, max(one.peak_bytes, other.peak_bytes), one.seconds + other.seconds)


def _group_influence(spec: GroupInfluence, model: ModelReport, n: int, block_bytes: int) -> Work:
    """Return what scores for the mean cost of one or two sets of test rows take, and resampling them."""
    sets = 2 if spec.retrains else 1
    work = solving(spec, spec.method, model, n, sets, block_bytes)
    products = 2 * n * model.dim * sets * SCORE_SHARES.get(spec.method, 1.0)
    resampling = len(spec.by) * n * spec.bootstrap * RESAMPLE_SECONDS
    held = work.held + FLOAT64 * sets * n
    return replace(
        work,
        passes=work.passes + sets,
        flops=work.flops + products,
        held=held,
        scores=sets * n,
        seconds=work.seconds + resampling,
    )


def _comparison(spec: Compare, model: ModelReport, n: int, m: int, block_bytes: int) -> Work:
    """Return what the scores of one model for m rows take, those without parts of them, and distances."""
    work = _influence(spec, model, n, m, block_bytes)
    if spec.ablation:
        inner = Work(2, 2 * n * model.dim * m, scores=n * m)
        work = _and(work, inner)
    # Each pair of rankings is sorted anew.
    sorts = (3 if spec.ablation else 0) + (1 if spec.distance else 0)
    return replace(work, held=work.held + 12 * n * m, seconds=work.seconds + sorts * n * m * SORT_SECONDS)


def _times(members: int, work: Work) -> Work:
    """Return what the same work takes for each member of an ensemble; the scores of all are ranked once."""
    return replace(
        work,
        passes=members * work.passes,
        flops=members * work.flops,
        held=members * work.held,
        products=members * work.products,
        seconds=members * work.seconds,
    )


def _and(one: Work, other: Work) -> Work:
    """Return what two pieces of work take, one after the other."""
    return Work(
        passes=one.passes + other.passes,
        flops=one.flops + other.flops,
        held=max(one.held, other.held),
        products=one.products + other.products,
        columns=max(one.columns, other.columns),
        scores=one.scores + other.scores,
        seconds=one.seconds + other.seconds,
    )


def solving(spec: ScoringJob, method: str, model: ModelReport, n: int, columns: int, block_bytes: int) -> Work:
    """Return what preparing a method and solving for `columns` takes; measuring the fit is the first pass."""
    P, C = model.dim, model.outputs_per_row
    if method == "exact" or (method == "relatif" and model.linear_head):
        dense = FLOAT64 * P * P
        solving = P**3 + 4 * P * P * (columns if method == "exact" else columns + n)
        if not model.linear_head:
            return Work(1, solving, 3 * dense, products=P, columns=P)
        curvature = n * P * P * (C + 1) / C  # the upper half of the blocks of outputs
        # The leverage correction is a pass over the same blocks.
        passes = 2 if spec.leverage_correction is not False else 1
        return Work(1 + passes, passes * curvature + solving, 4 * dense)
    if method == "cg":
        together = min(columns, max(1, block_bytes // (FLOAT64 * 8 * P)))
        iterations = min(spec.max_iterations or SOLVE_ITERATIONS, SOLVE_ITERATIONS, 2 + P / together)
        held = FLOAT64 * 8 * P * together
        if model.linear_head:
            return Work(2, 4 * n * P * columns * iterations, held + _features(model, n, block_bytes))
        return Work(1, 0, held, products=iterations * columns, columns=together)
    if method in ("lissa", "arnoldi"):
        rank = min(P, spec.rank or ARNOLDI_RANK)
        products = LISSA_PASSES * columns + LANCZOS_STEPS if method == "lissa" else 2 * rank + columns
        together = min(columns, max(1, block_bytes // (FLOAT64 * 8 * P)))
        held = FLOAT64 * P * (8 * together + (0 if method == "lissa" else 4 * rank))
        if model.linear_head:
            return Work(2, 4 * n * P * products, held + _features(model, n, block_bytes))
        return Work(1, 0, held, products=products, columns=together)
    if method == "gauss_newton":
        return _gauss_newton(spec, model, n, columns, block_bytes)
    if method == "trak":
        dimensions = min(spec.rank or PROJECTED, P)
        return Work(2, n * dimensions * (P + dimensions), FLOAT64 * n * dimensions)
    if method in ("ekfac", "relatif"):
        vectors = C if C <= EXACT_FISHER_OUTPUTS else 1
        # They are kept, with about √P numbers each, where they fit.
        kept = min(block_bytes / 2, 4 * n * vectors * P**0.5)
        return Work(1 + vectors, EKFAC_PRODUCTS * vectors * n * P, kept)
    return Work(1)


def _gauss_newton(spec: ScoringJob, model: ModelReport, n: int, columns: int, block_bytes: int) -> Work:
    """Return what its routes take: `exact` on a linear head, the system in sample space, products to a tolerance."""
    P, C = model.dim, model.outputs_per_row
    iterates = spec.tolerance is not None or spec.max_iterations is not None
    if model.linear_head and spec.rank is None and not iterates:
        return solving(spec, "exact", model, n, columns, block_bytes)
    kept, factors = min(spec.rank or ROOT_ROWS, n * C), min(P, FACTOR_NUMBERS * P**0.5)
    work = Work(1 + C, kept**2 * (factors + kept) + n * kept * factors, 24 * kept**2 + 12 * kept * factors)
    if iterates:
        together = min(columns, max(1, block_bytes // (FLOAT64 * 8 * P)))
        iterations = min(spec.max_iterations or SOLVE_ITERATIONS, SOLVE_ITERATIONS, 2 + P / together)
        held = work.held + FLOAT64 * 8 * P * together
        return replace(work, held=held, products=iterations * columns, columns=together)
    return work if columns < n else replace(work, flops=work.flops + n * kept**2)


def _features(model: ModelReport, n: int, block_bytes: int) -> float:
    """Return the bytes of what a linear head keeps of the rows, where that is little enough to be kept."""
    kept = FLOAT64 * n * (model.dim / model.outputs_per_row + model.outputs_per_row**2)
    return kept if kept <= block_bytes / 4 else 0


def _mislabels(spec: Mislabels, model: ModelReport, trained: "_Trained") -> Work:
    """Return what repetitions take: a fit to the mistakes, its folds, scores of all rows, and a fit for each find."""
    scoring, n, times = spec.scoring(), trained.n, spec.repetitions
    folds = spec.folds if "confident_learning" in spec.rankings else 0
    finds = 0 if spec.protocol == "as_is" else 1 + len(spec.rankings) * len(spec.budgets)
    work = Work(1)
    if scoring is not None:
        work = _times(times, solving(scoring, scoring.method, model, n, n, trained.block_bytes))
    if finds:
        # Each repetition starts from a Hessian of its own.
        work = _and(work, _times(times, _retraining(trained, finds, 1)))
    if folds:
        work = _and(work, _times(times, _retraining(trained, folds, 1, 1 - 1 / folds)))
    held = max(work.held, FLOAT64 * n * 4 * model.outputs_per_row)
    return replace(work, held=held, scores=work.scores + times * n * len(spec.rankings))


@dataclass(frozen=True, slots=True)
class _Trained:
    """What is trained again."""

    model: ModelReport
    training: TrainingSpec | None
    speed: Speed
    n: int
    m: int
    block_bytes: int


def _fidelity(settings: FidelitySettings, trained: _Trained) -> Work:
    """Return what holding scores against retraining takes."""
    if settings.protocol == "lds":
        return _retraining(trained, settings.samples, settings.seeds, settings.share)
    return _retraining(trained, 1 + 2 * min(settings.samples, trained.n), settings.seeds)


def _retraining(trained: _Trained, fits: int, seeds: int, share: float = 1.0) -> Work:
    """Return what fits take, each on a share of the rows."""
    model, n, m = trained.model, trained.n, trained.m
    P, C = model.dim, model.outputs_per_row
    if model.linear_head:
        # Some Newton iterations each, over features that are computed once.
        curvature = n * P * P * (C + 1) / C
        per_fit = FIT_PRODUCTS * 4 * n * P + 2 * m * P
        held = 3 * FLOAT64 * P * P + FLOAT64 * n * (P / C + C) + FLOAT64 * fits * m
        return Work(3, 3 * (curvature + P**3) + fits * per_fit, held)
    if trained.training is None:
        return Work(0)  # refused before anything is estimated
    rows, copies = share * n, fits * seeds
    batch = min(trained.training.batch_size or rows, rows)
    steps = trained.training.epochs * rows / batch
    row = max(1, trained.speed.row_bytes / FLOAT64 - 3 * P)
    numbers = min(COPY_NUMBERS, trained.block_bytes / 4 / FLOAT64)
    together = max(1, numbers / (6 * P + batch * row))
    return Work(
        passes=2 + COPY_ROW * copies * (trained.training.epochs * share + 1 + m / n),
        held=FLOAT64 * (2 * numbers + min(copies * 2 * P, trained.block_bytes / 4 / FLOAT64) + 2 * fits * m),
        seconds=steps * (copies * P * COPY_NUMBER_SECONDS + -(-copies // together) * STEP_SECONDS),
    )


def _perturbing(spec: Perturb, trained: _Trained) -> Work:
    """Return what attacks take that all go on to their last iteration: each step is a gradient and a fit."""
    settings, model, n = spec.settings, trained.model, trained.n
    attacks, P, C = len(spec.attacks) or trained.m, model.dim, model.outputs_per_row
    rounds = (2 if settings.control else 1) * settings.iterations
    # Of the rows that are ranked, as many gradients as there are attacks; of those that are perturbed, one a step.
    ranked = attacks * min(settings.prefilter or n, n) / n
    steps = rounds * attacks * (len(settings.candidate_rows) or settings.candidates) / n
    if not model.linear_head:
        fitted = _retraining(trained, rounds * attacks, 1)
        return replace(fitted, passes=fitted.passes + ranked + steps, products=SOLVE_ITERATIONS * rounds * attacks)
    # The Hessian of the unperturbed rows, which is factorised once, preconditions every step.
    curvature = n * P * P * (C + 1) / C + P**3
    per_step = FIT_PRODUCTS * 4 * n * P
    confirmed = (2 if settings.control else 1) * attacks * 3 * per_step if settings.confirm else 0
    held = FLOAT64 * (3 * P * P + n * (P / C + C) + attacks * P)
    return Work(3 + ranked + steps, 3 * curvature + rounds * attacks * per_step + confirmed, held)


def _closed_forms(model: ModelReport, n: int, dfbeta: bool) -> Work:
    """Return what leverage, Cook's distance and DFBETA take: a Hessian, its inverse, and two passes of its blocks."""
    P, C = model.dim, model.outputs_per_row
    curvature = n * P * P * (C + 1) / C
    changes = 2 * n * P * P if dfbeta else 0
    return Work(3, 3 * curvature + 3 * P**3 + changes, FLOAT64 * (4 * P * P + (n * P if dfbeta else 0)))
