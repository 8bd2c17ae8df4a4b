"""What is this model? Capture one forward pass as an op graph and read every parameter's role from it."""
