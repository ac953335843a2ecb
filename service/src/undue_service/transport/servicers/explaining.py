"""IndexService's Explain."""

from undue.v1 import indexes_pb2
from undue_service.transport import explaining

from .cases import Context, UseCases, tenant


class ExplainServicer:
    """See indexes.proto."""

    def __init__(self, cases: UseCases) -> None:
        self._explainer = cases.explainer

    async def Explain(self, request: indexes_pb2.ExplainRequest, context: Context) -> indexes_pb2.ExplainResponse:
        """See indexes.proto."""
        questions, call = explaining.questions(request)
        found = await self._explainer.explain(tenant(context), request.index, questions, call)
        return explaining.response(*found, exact=call.exact)
