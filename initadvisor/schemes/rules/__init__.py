"""What would an expert fill this parameter with? Each rule matches by role and surroundings and cites its source."""
