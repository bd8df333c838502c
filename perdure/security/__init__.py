"""What keeps others out: where the server may connect to, secrets at rest, API keys, signatures, and what a card says of it."""
