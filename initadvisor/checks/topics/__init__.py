"""What does each check look for? One file per topic."""
