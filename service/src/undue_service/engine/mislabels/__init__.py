"""Looking for mislabelled training rows: rankings, and how well they find what is known to be wrong."""
