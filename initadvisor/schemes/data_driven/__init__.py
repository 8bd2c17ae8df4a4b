"""Calibrations that measure the model on a batch after filling: LSUV, analytic propagation, MetaInit, GradInit."""
