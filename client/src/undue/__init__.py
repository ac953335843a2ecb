"""undue: which training examples made the model say this, and what changes if they change.

import undue

with undue.Client("127.0.0.1:50051") as client:          # or undue.Client.local()
    train = client.datasets.register("digits-train", undue.Arrays(inputs=X, targets=y))
    objective = undue.Objective("cross_entropy", l2=1e-2)
    model = client.models.register("digits", "digits.onnx", objective=objective, sample=train)
    print(client.influence(model, train=train, test=train, rows=[0]).result())
"""

from ._architectures import Architecture, ArchitectureInfo, ArchitectureOption
from ._async.client import AsyncClient
from ._async.group_jobs import AsyncCompareJob, AsyncGroupInfluenceJob
from ._async.index_jobs import AsyncIndexJob
from ._async.indexes import AsyncIndexes
from ._async.jobs import AsyncJob
from ._async.kinds import (
    AsyncFidelityJob,
    AsyncInfluenceJob,
    AsyncJobs,
    AsyncLeverageJob,
    AsyncRetrainJob,
    AsyncSelfInfluenceJob,
    AsyncValidationJob,
)
from ._async.mislabel_jobs import AsyncMislabelsJob, AsyncSuspectsJob
from ._async.perturbing import AsyncPerturbJob
from ._async.registries import AsyncDatasets, AsyncModels
from ._compare_results import CompareResult, ListAgreement, ModelView, Nearness, RowComparison, Scatter
from ._errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    JobFailed,
    ModelWarning,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from ._explain_results import ExplainResult
from ._fidelity import Agreement, FidelityFinding, FidelitySettings, Interval, Stratum
from ._fidelity_results import FidelityResult
from ._group_results import CostChange, GroupEffect, GroupInfluenceResult, GroupShare
from ._indexes import Alias, Index, IndexReport, IndexState
from ._inputs import Objective
from ._leverage_results import LeverageResult
from ._mislabels_results import MislabelPoint, MislabelsResult, SeedMean, SuspectsResult
from ._perturb_results import Attack, AttackedRow, FlipShare, PerturbedRow, PerturbResult, Poisoned
from ._recipes import Checkpoint, Training
from ._resources import (
    CheckpointInfo,
    Dataset,
    DatasetReport,
    Estimate,
    Example,
    Failure,
    Group,
    JobState,
    Limits,
    MethodInfo,
    Model,
    ModelReport,
    ParameterInfo,
    Parity,
    Progress,
    RunnerInfo,
    ServerInfo,
    State,
    Stationarity,
    TensorSpec,
)
from ._results import (
    Counterfactual,
    Diagnostics,
    Explanation,
    InfluenceResult,
    RetrainResult,
    ScoredExample,
    SelfInfluenceResult,
)
from ._schema import Arrays, Input, Schema
from ._sync.client import Client
from ._sync.group_jobs import CompareJob, GroupInfluenceJob
from ._sync.index_jobs import IndexJob
from ._sync.indexes import Indexes
from ._sync.jobs import Job
from ._sync.kinds import FidelityJob, InfluenceJob, Jobs, LeverageJob, RetrainJob, SelfInfluenceJob, ValidationJob
from ._sync.mislabel_jobs import MislabelsJob, SuspectsJob
from ._sync.perturbing import PerturbJob
from ._sync.registries import Datasets, Models
from ._version import __version__

__all__ = [
    "Agreement",
    "Alias",
    "AlreadyExists",
    "Architecture",
    "ArchitectureInfo",
    "ArchitectureOption",
    "Arrays",
    "AsyncClient",
    "AsyncCompareJob",
    "AsyncDatasets",
    "AsyncFidelityJob",
    "AsyncGroupInfluenceJob",
    "AsyncIndexJob",
    "AsyncIndexes",
    "AsyncInfluenceJob",
    "AsyncJob",
    "AsyncJobs",
    "AsyncLeverageJob",
    "AsyncMislabelsJob",
    "AsyncModels",
    "AsyncPerturbJob",
    "AsyncRetrainJob",
    "AsyncSelfInfluenceJob",
    "AsyncSuspectsJob",
    "AsyncValidationJob",
    "Attack",
    "AttackedRow",
    "Cancelled",
    "Checkpoint",
    "CheckpointInfo",
    "Client",
    "CompareJob",
    "CompareResult",
    "CostChange",
    "Counterfactual",
    "Dataset",
    "DatasetReport",
    "Datasets",
    "DeadlineExceeded",
    "Diagnostics",
    "Error",
    "Estimate",
    "Example",
    "ExplainResult",
    "Explanation",
    "FailedPrecondition",
    "Failure",
    "FidelityFinding",
    "FidelityJob",
    "FidelityResult",
    "FidelitySettings",
    "FieldViolation",
    "FlipShare",
    "Group",
    "GroupEffect",
    "GroupInfluenceJob",
    "GroupInfluenceResult",
    "GroupShare",
    "Index",
    "IndexJob",
    "IndexReport",
    "IndexState",
    "Indexes",
    "InfluenceJob",
    "InfluenceResult",
    "Input",
    "Internal",
    "Interval",
    "InvalidArgument",
    "Job",
    "JobFailed",
    "JobState",
    "Jobs",
    "LeverageJob",
    "LeverageResult",
    "Limits",
    "ListAgreement",
    "MethodInfo",
    "MislabelPoint",
    "MislabelsJob",
    "MislabelsResult",
    "Model",
    "ModelReport",
    "ModelView",
    "ModelWarning",
    "Models",
    "Nearness",
    "NotFound",
    "Objective",
    "ParameterInfo",
    "Parity",
    "PermissionDenied",
    "PerturbJob",
    "PerturbResult",
    "PerturbedRow",
    "Poisoned",
    "Progress",
    "QuotaExceeded",
    "RetrainJob",
    "RetrainResult",
    "RowComparison",
    "RunnerInfo",
    "Scatter",
    "Schema",
    "ScoredExample",
    "SeedMean",
    "SelfInfluenceJob",
    "SelfInfluenceResult",
    "ServerInfo",
    "State",
    "Stationarity",
    "Stratum",
    "SuspectsJob",
    "SuspectsResult",
    "TensorSpec",
    "Training",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "ValidationJob",
    "__version__",
]

for _name in __all__:
    if isinstance(_public := globals()[_name], type):
        _public.__module__ = __name__  # so that messages and documentation show the name that people import
del _name, _public
