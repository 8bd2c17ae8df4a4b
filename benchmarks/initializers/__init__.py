"""What initializers cost and what data-driven steps achieve."""
