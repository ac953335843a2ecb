"""Frames between the API process and a runner, and how they are read and written."""
