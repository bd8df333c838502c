"""The front door: A2A over HTTP, JSON-RPC and HTTP+JSON, in the versions 1.0 and 0.3."""
