"""How is it asked from inside other frameworks? Thin adapters; optional imports live only here."""
