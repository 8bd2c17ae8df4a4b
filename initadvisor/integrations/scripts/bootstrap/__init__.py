"""What does Python load first in a watched process? The folder of this file, put on ``PYTHONPATH``."""
