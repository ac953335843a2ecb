"""The gRPC server."""

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from undue.v1 import datasets_pb2, indexes_pb2, jobs_pb2, models_pb2, server_info_pb2, uploads_pb2
from undue.v1.datasets_pb2_grpc import add_DatasetServiceServicer_to_server
from undue.v1.indexes_pb2_grpc import add_IndexServiceServicer_to_server
from undue.v1.jobs_pb2_grpc import add_JobServiceServicer_to_server
from undue.v1.models_pb2_grpc import add_ModelServiceServicer_to_server
from undue.v1.server_info_pb2_grpc import add_ServerServiceServicer_to_server
from undue.v1.uploads_pb2_grpc import add_UploadServiceServicer_to_server
from undue_service.application.ports import Metrics
from undue_service.domain.errors import Reason, Unavailable

from .interceptors import CallInterceptor
from .servicers import (
    DatasetServicer,
    IndexServicer,
    JobServicer,
    ModelServicer,
    ServerServicer,
    UploadServicer,
    UseCases,
)

_FILES = (datasets_pb2, indexes_pb2, jobs_pb2, models_pb2, server_info_pb2, uploads_pb2)
SERVICES = tuple(service.full_name for file in _FILES for service in file.DESCRIPTOR.services_by_name.values())

MAX_RECEIVE_BYTES = 8 << 20
"""Chunks are 1 MiB; small arrays and long row lists come inside a request."""


async def start_server(
    cases: UseCases, metrics: Metrics, address: str, *, with_reflection: bool
) -> tuple[grpc.aio.Server, str]:
    """Start serving and return the server and the address that it is bound to.

    Raises:
        Unavailable: the address is taken or not ours.
    """
    options = (
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        ("grpc.so_reuseport", 0),  # a second service on the same port is an error, not a lottery
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    )
    server = grpc.aio.server(interceptors=(CallInterceptor(metrics),), options=options)
    add_UploadServiceServicer_to_server(UploadServicer(cases), server)
    add_ModelServiceServicer_to_server(ModelServicer(cases), server)
    add_DatasetServiceServicer_to_server(DatasetServicer(cases), server)
    add_JobServiceServicer_to_server(JobServicer(cases), server)
    add_IndexServiceServicer_to_server(IndexServicer(cases), server)
    add_ServerServiceServicer_to_server(ServerServicer(cases), server)
    await _add_health(server)
    if with_reflection:
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        text = f"cannot listen on {address}: is it this machine's, and free? --address or UNDUE_GRPC_ADDRESS chooses"
        raise Unavailable(Reason.ADDRESS_UNAVAILABLE, text) from error
    await server.start()
    bound = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    return server, bound


async def _add_health(server: grpc.aio.Server) -> None:
    servicer = health.aio.HealthServicer()
    for name in ("", *SERVICES):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
