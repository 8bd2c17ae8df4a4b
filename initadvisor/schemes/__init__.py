"""Which initializer goes where in one model? Immutable schemes, rules that propose them, and their application."""
