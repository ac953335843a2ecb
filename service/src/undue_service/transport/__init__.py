"""gRPC: thin servicers, pure converters, one error table, interceptors."""
