"""How a turn is run: which function, what it may give, which failures may pass, and what becomes of one that does not end."""
