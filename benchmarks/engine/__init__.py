"""How much faster the trial engine is than a plain Optuna loop, and how far from what the machine could do."""
