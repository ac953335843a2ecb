"""What the engine says of its own answers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from undue_service.domain.methods import MethodSpec
from undue_service.domain.reports import Diagnostics, Stationarity

from .methods import Factors, Problem
from .objective import Objective
from .solvers import Effort
from .stationarity import measure_fit


@dataclass(frozen=True)
class EngineDiagnostics:
    """The part of `domain.reports.Diagnostics` that the engine knows; the meaning of each field stands there."""

    estimand: str
    scale: str
    method: str
    damping: float
    damping_source: str
    leverage_correction: bool
    solver: str
    solver_status: str
    residual: float
    matvecs: int
    stationarity: Stationarity
    dtype: str
    device: str
    seconds: float
    warnings: tuple[str, ...]

    def complete(self, *, recipe: str, seed: int, digests: Mapping[str, str]) -> Diagnostics:
        """Return the diagnostics with what only the caller knows."""
        known = {**asdict(self), "stationarity": self.stationarity}
        return Diagnostics(**known, recipe=recipe, seed=seed, digests=dict(digests))


@dataclass(frozen=True)
class Diagnosis:
    """What is known before anything is solved."""

    stationarity: Stationarity
    warnings: tuple[str, ...]

    def finish(
        self, objective: Objective, spec: MethodSpec, factors: Factors, effort: Effort, seconds: float
    ) -> EngineDiagnostics:
        """Return it with what was found out since."""
        return EngineDiagnostics(
            estimand=spec.estimand,
            scale=spec.scale,
            method=spec.name,
            damping=factors.damping.value,
            damping_source=factors.damping.source,
            leverage_correction=factors.leverage_correction,
            solver=factors.solver,
            solver_status=factors.solver_status,
            residual=effort.residual,
            matvecs=effort.matvecs,
            stationarity=self.stationarity,
            dtype=str(factors.dtype or objective.program.dtype).removeprefix("torch."),
            device=str(objective.program.device),
            seconds=seconds,
            warnings=(*self.warnings, *factors.damping.warnings, *factors.warnings),
        )


def begin(problem: Problem) -> Diagnosis:
    """Check the model against its training data.

    Raises:
        InvalidArgument: MODEL_UNSUPPORTED, INPUT_MISMATCH, TARGET_MISMATCH, TARGETS_MISSING.
        FailedPrecondition: NON_FINITE_RESULT.
    """
    fit = measure_fit(problem.objective, problem.train, memory_bytes=problem.memory_bytes, progress=problem.progress)
    return Diagnosis(fit.stationarity, fit.warnings)
