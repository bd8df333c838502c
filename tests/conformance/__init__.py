"""A2A to the letter: a test for each MUST and SHOULD that a server can be tested for, in every binding, in memory and durable."""
