"""The command line `undue`."""
