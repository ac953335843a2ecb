"""Name to method. What the names mean stands in `undue_service.domain.methods`; a test holds the two together."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from undue_service.domain.methods import method_spec

from .arnoldi import arnoldi
from .base import Method
from .cg import cg
from .ekfac import EkFac
from .exact import Exact
from .gauss_newton import GaussNewtonInfluence
from .grad_cos import GradCos
from .grad_dot import GradDot
from .lissa import by_lissa
from .relatif import RelatIF
from .representation import Representation
from .tracin import TracIn
from .trak import Trak

_METHODS: tuple[Method[Any], ...] = (
    Exact(),
    cg(),
    by_lissa(),
    arnoldi(),
    GaussNewtonInfluence(),
    EkFac(),
    GradDot(),
    GradCos(),
    TracIn(),
    Trak(),
    RelatIF(),
    Representation(),
)

REGISTRY: Mapping[str, Method[Any]] = MappingProxyType({method.spec.name: method for method in _METHODS})


def find(name: str) -> Method[Any]:
    """Return the method of that name.

    Raises:
        InvalidArgument: METHOD_UNKNOWN.
    """
    return REGISTRY[method_spec(name).name]
