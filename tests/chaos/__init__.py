"""The chaos suite: clients, faults from a seed, and a checker of what is left in the end. See docs/chaos.md.

`run` is the whole; `clients` send and note what they were told, `nemesis` breaks the `fleet`, `aftermath` reads what is stored,
and `checker` judges all of it. `python -m tests.chaos` runs it, `python -m tests.chaos check FOLDER` judges a kept run again.
"""
