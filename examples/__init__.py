"""Scripts against the SDK; `sources` and `figures` are what they share."""
