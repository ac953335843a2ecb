"""Two models on the same predictions, influence against distance, and influence without parts of it."""
