"""How should I initialise this network? Ask :func:`advise`; read with :func:`analyze`; audit with :func:`check`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
