"""What building an index would take, by the constants of the jobs that do the same work.

Of nine builds on two cores that others used too (10,000 rows, 650 to 235,000 parameters) the estimates came to 0.4–1.2
times the seconds waited and 0.7–1.6 times the memory.
"""

from dataclasses import replace

from .costs import BLOCK_ROWS, FLOAT64, SCORE_SHARES, Estimate, Work, solving, total
from .index_jobs import IndexSpec
from .reports import ModelReport, Speed
from .self_influence import SelfInfluence

INDEX_QUERIES = 32
"""Training rows that building an index asks about, to say how many of a dense scan's rows the search finds."""
INDEX_ROW_BYTES = 1_500
"""Of a row in an index, about."""
ROOT_COPIES = 1.6
"""Of a block of rows of the root of the Gauss–Newton matrix, which are held at once."""


def estimate_index(spec: IndexSpec, model: ModelReport, speed: Speed, rows: int, block_bytes: int) -> Estimate:
    """Return what building an index takes: what its method's fit takes, one pass more, and a few dense queries.

    Args:
        spec: with its method.
        model: with those parameters selected that scores run over.
        speed: as it was measured.
        rows: n.
        block_bytes: the engine's budget.
    """
    dim, queries = model.dim, min(rows, INDEX_QUERIES)
    # `gauss_newton` in an index is the matrix itself, which costs what `exact` costs with a root for the Hessian.
    dense = spec.method == "exact" or (spec.method == "gauss_newton" and model.linear_head)
    fit = SelfInfluence(spec.model, spec.train, method="exact" if dense else "ekfac", seed=spec.seed)
    fit = replace(fit, leverage_correction=spec.leverage_correction)
    work = solving(fit, fit.method, model, rows, queries, block_bytes)
    if spec.method == "gauss_newton" and not dense:
        outputs = model.outputs_per_row
        # Its root is multiplied out a block of rows at a time.
        root = min(block_bytes / 2, ROOT_COPIES * FLOAT64 * min(rows, BLOCK_ROWS) * outputs * dim)
        work = Work(2 + outputs, rows * outputs * dim**2 + dim**3, 4 * FLOAT64 * dim**2 + root)
    scoring = 2 * rows * dim * queries * SCORE_SHARES.get(spec.method, 1.0)
    held = work.held + rows * min(FLOAT64 * dim, INDEX_ROW_BYTES) + FLOAT64 * 2 * dim * queries
    work = replace(work, passes=work.passes + 1, flops=work.flops + scoring, held=held)
    return total(work, model, speed, rows, 0, block_bytes)
