"""Targets to begin with, as `initadvisor new` writes them: each runs as it is."""
