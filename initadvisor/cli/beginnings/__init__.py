"""What does a target look like? As `initadvisor new` writes them: each runs as it is."""
