"""Is the advice true after full training, and what did it cost?

``python -m benchmarks.regret`` trains the whole pool of schemes on every task, asks the advisor, replays the usual
alternatives at equal cost, and writes the figures. Everything is resumable: a training that is in ``results/`` is never
repeated.
"""
