# Generated from _async/__init__.py by tools/unasync.py: change that file, then run it with `generate`.
"""The blocking client, generated from `_async`."""
