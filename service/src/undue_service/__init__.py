"""The undue service: training-data attribution and training perturbation over gRPC."""

__version__ = "0.1.0"
