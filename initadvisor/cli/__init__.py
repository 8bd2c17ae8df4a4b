"""How is it asked from a shell? ``main`` is the entry point; nothing here imports torch before a command needs it."""

from __future__ import annotations

from initadvisor.cli.app import main

__all__ = ["main"]
