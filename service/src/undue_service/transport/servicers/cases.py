"""What the servicers call, and for whom."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc.aio

from undue_service.application.deletion import Deletions
from undue_service.application.explaining import Explainer
from undue_service.application.indexes import Indexes
from undue_service.application.instances import InstanceReader
from undue_service.application.jobs import Jobs
from undue_service.application.perturbations import Perturbations
from undue_service.application.ports import WorkerPool
from undue_service.application.registration import Registrations
from undue_service.application.results import Results
from undue_service.application.uploads import Uploads
from undue_service.domain.names import DEFAULT_TENANT

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the servicers call."""

    uploads: Uploads
    registrations: Registrations
    jobs: Jobs
    results: Results
    perturbations: Perturbations
    deletions: Deletions
    instances: InstanceReader
    indexes: Indexes
    explainer: Explainer
    pool: WorkerPool


def tenant(_: Context) -> str:
    """Return whose call this is: until there are tokens, everybody's."""
    return DEFAULT_TENANT
