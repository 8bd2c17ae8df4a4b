"""Loaded by Python itself at its start: waits for torch to be imported, has the hooks set then, and makes way.

Nothing of the command is changed: `__main__`, `sys.argv`, relative imports, spawned workers and launchers are what they
are without it. It knows nothing but the standard library, since it runs before everything else.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

JOB = "INITADVISOR_SCRIPT"
"""Environment variable with the folder of the session; without it nothing happens here."""

HOME = "INITADVISOR_HOME"
"""Environment variable with the folder that holds the package, for interpreters that do not have it installed."""


def _begin() -> None:
    """Set the hooks; a fault here is told and leaves the user's run alone."""
    home = os.environ.get(HOME, "")
    added = bool(home) and home not in sys.path and importlib.util.find_spec("initadvisor") is None
    if added:
        sys.path.append(home)
    try:
        from initadvisor.integrations.scripts.agent import begin

        begin(os.environ[JOB])
    except Exception as error:  # noqa: BLE001 - whatever it is, the user's run must go on
        print(f"initadvisor: error: cannot watch this process: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        if added:
            sys.path.remove(home)


class _AfterTorch:
    """Finder that steps aside at the first import of torch and has :func:`_begin` called after it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = None if spec is None else spec.loader
        if loader is None:
            return spec
        load = loader.exec_module

        def exec_module(module: Any) -> None:
            del loader.exec_module  # from here on the loader is as it was
            load(module)
            _begin()

        loader.exec_module = exec_module
        return spec


def _make_way() -> None:
    """Take this folder off the path, and load the environment's own ``sitecustomize``, which this one hides."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - no pathlib: it is not loaded yet
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]  # noqa: PTH100
    mine = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")  # the one of the environment, if there is one
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        if mine is not None:  # Python expects to find the module it has just loaded
            sys.modules.setdefault("sitecustomize", mine)


if __name__ == "sitecustomize" and os.environ.get(JOB):
    if "torch" in sys.modules:
        _begin()
    else:
        sys.meta_path.insert(0, _AfterTorch())
    _make_way()
