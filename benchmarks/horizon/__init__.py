"""Trainings as long as people really train: what early advice is worth at the end, by what it costs."""
