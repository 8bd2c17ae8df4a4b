"""How is a training script asked as it is? Its own process is run with hooks in it, and its hooks report here."""
