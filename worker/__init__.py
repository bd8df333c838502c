"""The workers: they claim tasks, run the agent's handler under a lease and record what it did."""
