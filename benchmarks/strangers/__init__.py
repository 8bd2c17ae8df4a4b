"""Is a model that nobody here wrote read rightly, and is nothing made worse? Models in the idioms of other people."""
