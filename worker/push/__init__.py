"""Deliveries to webhooks: found in the outbox, sent beside the turns, in a number of their own."""
