"""Which scheme trains best? Short trainings under common random numbers, rungs, and a decision that can be trusted."""
