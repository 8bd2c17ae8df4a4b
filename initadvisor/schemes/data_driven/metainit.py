"""In work since 16:56 by the second engineer on this room (objective, metainit, gradinit and their tests and effects; analytic.py, initializers, speed bench are left to you)."""
