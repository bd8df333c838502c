"""Clients that nobody here wrote and that pip does not put beside the rest: `make test-clients`."""
