"""Rules: match a parameter by role and surroundings, propose its fill, cite the source."""
