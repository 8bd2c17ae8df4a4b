"""Which initializer goes where in one model: immutable schemes, rules that propose them, and their application."""
