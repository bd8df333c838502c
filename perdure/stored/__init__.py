"""The stored form: what a database can keep, and how it is written and read."""
