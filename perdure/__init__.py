"""Perdure: a durable task server for A2A agents."""

__version__ = "0.1.0"
