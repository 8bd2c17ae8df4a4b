"""What can be measured on a batch after filling? LSUV, analytic propagation, MetaInit, GradInit."""
