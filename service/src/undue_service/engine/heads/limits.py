"""How large a head may be that is fitted, and how many fits may go in step."""

from undue_service.domain.errors import FailedPrecondition, Reason
from undue_service.domain.methods import DENSE_PARAMETER_LIMIT
from undue_service.engine.objective import Objective

_OUTPUT = 12
"""Numbers that a pass keeps for each output of each row of a block."""


def check_size(objective: Objective, what: str = "retraining") -> None:
    """Raise FailedPrecondition (TOO_MANY_PARAMETERS) for a matrix over θ that is too large to be factorised.

    Args:
        objective: whose head is fitted.
        what: needs the matrix, in the error's words.
    """
    if objective.space.dim > DENSE_PARAMETER_LIMIT:
        text = (
            f"{what} factorises a matrix over the selected parameters, of which there are {objective.space.dim:,}; "
            f"the limit is {DENSE_PARAMETER_LIMIT:,}: select fewer with parameters="
        )
        metadata = {"parameters": str(objective.space.dim), "limit": str(DENSE_PARAMETER_LIMIT)}
        raise FailedPrecondition(Reason.TOO_MANY_PARAMETERS, text, metadata=metadata)


def fits_in_step(objective: Objective, memory_bytes: int, *, block: int, rows: int, states: int) -> int:
    """Return how many fits in float64 a byte budget holds, which may be none.

    Args:
        objective: whose head is fitted.
        memory_bytes: the budget.
        block: rows of which intermediate values are kept at once.
        rows: n; a fit takes a byte of each.
        states: numbers that each coefficient of a fit takes.
    """
    numbers = _OUTPUT * objective.head.outputs * block + states * objective.space.dim
    return memory_bytes // (8 * numbers + rows)
