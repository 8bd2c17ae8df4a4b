"""``python -m benchmarks.strangers``."""

import sys

from benchmarks.strangers.run import main

if __name__ == "__main__":
    sys.exit(main())
