"""How can one tensor be filled? Pure functions over shape and fans, each with a card."""
