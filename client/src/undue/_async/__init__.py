"""The asyncio client. Its blocking twin in `_sync` is generated from here."""
