"""undue beside its peers: the same work, one process each, the same threads. See docs/benchmarks.md."""
