"""What the service is about, in the standard library alone: resources, jobs, names, digests, errors."""
