"""Agents that people already have, as handlers of ours: each module is for one library and needs the extra of its name.

Nothing else in Perdure imports this package.
"""
