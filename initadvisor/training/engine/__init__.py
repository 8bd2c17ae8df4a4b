"""How do many runs of one training run at once? Looped or vmapped, in this process or over several."""
