"""Thin adapters for other frameworks; optional imports live only here."""
