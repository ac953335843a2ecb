"""The process that opens models and data: no gRPC, no database, nothing to connect to."""
