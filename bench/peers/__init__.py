"""The peers: each in a virtual environment of its own, run by its own program in this folder."""
