"""Targets of the command line: ``path/to/file.py:name`` or ``package.module:name``, loaded without leaving a trace."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from initadvisor.errors import InitAdvisorError, TargetError, nearest

if TYPE_CHECKING:
    from torch import nn

DEFAULT_NAME = "target"
"""What is looked up where the target names none."""

REQUIRED = ("model", "sample_batch")


@functools.cache
def arguments_of_advise() -> tuple[str, ...]:
    """What a mapping may hold: the arguments of ``advise``."""
    from initadvisor.advisor import advise

    return tuple(inspect.signature(advise).parameters)


@dataclass(frozen=True)
class Target:
    """A training as its owner wrote it down.

    Attributes:
        text: the target as given.
        arguments: keyword arguments of ``advise``; ``model`` and ``sample_batch`` are always there.
        sources: files of the modules that it loaded, its own among them.
    """

    text: str
    arguments: Mapping[str, Any]
    sources: tuple[Path, ...] = ()

    @property
    def model(self) -> nn.Module:
        """The module to advise on."""
        model: nn.Module = self.arguments["model"]
        return model

    @property
    def sample_batch(self) -> Any:
        """A batch or an iterable of batches."""
        return self.arguments["sample_batch"]


@contextlib.contextmanager
def open_target(text: str) -> Iterator[Target]:
    """Load a target for as long as the context lasts.

    Inside, the folder of the target is importable, as when its file is run as a script; on the way out ``sys.path`` is
    as it was and modules that came from that folder are forgotten. Code under ``if __name__ == "__main__"`` does not
    run, and what the file prints goes to standard error, so that results on standard output stay clean.

    Args:
        text: ``file.py:name`` or ``package.module:name``; without ``:name``, ``target``. The name is a callable that
            returns, or a value that is, ``(model, data)`` or a mapping with the arguments of ``advise``.

    Raises:
        TargetError: nothing there, something else there, or its code raised (type, message and line are quoted).
    """
    place, name = _split(text)
    file = _file_of(place)
    folder, module_name = _home(file) if file is not None else (Path.cwd(), place)
    path_before, modules_before = list(sys.path), dict(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = _quoting(text, folder, lambda: _load(module_name, file))
            value = _quoting(text, folder, lambda: _value(module, name, text))
        loaded = [m for m in sys.modules.values() if _lies_in(m, folder)]
        sources = tuple(Path(str(m.__file__)) for m in loaded)
        yield Target(text, _arguments(value, text), sources)
    finally:
        sys.path[:] = path_before
        for key in [k for k in sys.modules if k not in modules_before and _lies_in(sys.modules[k], folder)]:
            del sys.modules[key]


def file_of_target(text: str) -> Path | None:
    """The file a target names; None where it names a module, which only loading finds.

    Raises:
        TargetError: it names neither, or no such file.
    """
    return _file_of(_split(text)[0])


def place_in_users_code(error: BaseException, words: Sequence[str]) -> str | None:
    """Type, message and place of an error that passed through the user's code, None where it did not.

    Args:
        error: what was raised.
        words: the command line; those that name a target tell which folder is the user's.
    """
    for word in words:
        if word.startswith("-"):
            continue
        try:
            file = _file_of(_split(word)[0])
        except TargetError:
            continue
        frame = _innermost(error, _home(file)[0] if file is not None else Path.cwd())
        if frame is not None:
            return f"your code raised at {frame.filename}:{frame.lineno}: {one_line(error)}"
    return None


def _innermost(error: BaseException, folder: Path) -> traceback.FrameSummary | None:
    """The innermost frame of an error that lies in ``folder`` (installed packages below it do not count)."""
    own = Path(__file__).parent

    def is_users(frame: traceback.FrameSummary) -> bool:
        file = Path(frame.filename)
        return _is_below(file, folder) and not _is_below(file, own) and "site-packages" not in file.parts

    inside = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame)]
    return inside[-1] if inside else None


def one_line(error: BaseException) -> str:
    """Type and message of an error on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _split(text: str) -> tuple[str, str]:
    place, colon, name = text.rpartition(":")
    if not colon or name.endswith(".py") or "/" in name or "\\" in name:  # no name, or the colon of a drive letter
        place, name = text, DEFAULT_NAME
    if not place or not name:
        raise TargetError(f'target "{text}" is not file.py:name or package.module:name')
    return place, name


def _file_of(place: str) -> Path | None:
    """The file a target names, None where it names a module."""
    path = Path(place).expanduser()
    if path.suffix == ".py" or "/" in place or "\\" in place:
        if path.is_dir():
            raise TargetError(f'target "{place}" is a folder; name a file in it: {place.rstrip("/")}/file.py:name')
        if not path.is_file():
            raise TargetError(f'target file "{place}" does not exist{_suggestion(path)}')
        if path.suffix != ".py":
            raise TargetError(f'target file "{place}" is not Python source; name a .py file')
        return path.resolve()
    return None


def _suggestion(path: Path) -> str:
    try:
        known = [p.name for p in path.parent.glob("*.py")]
    except OSError:
        known = []
    return f"; {nearest(path.name, known)}" if known else ""


def _home(file: Path) -> tuple[Path, str]:
    """The folder to make importable and the name to import as; a file inside a package keeps its dotted name."""
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(parts)
    if len(parts) == 1 and (not name.isidentifier() or _is_taken(name, file)):
        name = f"_initadvisor_target_{abs(hash(file)):x}"  # must not shadow a module of that name
    return folder, name


def _is_taken(name: str, file: Path) -> bool:
    if name in sys.modules:
        return True
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None and Path(found.origin).resolve() != file


def _load(name: str, file: Path | None) -> ModuleType:
    if file is None or "." in name:
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise TargetError(f'"{file}" cannot be loaded as Python source')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    spec.loader.exec_module(module)
    return module


def _value(module: ModuleType, name: str, text: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            known = [n for n, v in vars(module).items() if not n.startswith("_") and not isinstance(v, ModuleType)]
            hint = f"; {nearest(name, known)}" if known else ""
            raise TargetError(f'"{text}": no "{name}" in {module.__name__}{hint}')
        value = getattr(value, part)
    if not callable(value) or _is_module(value):
        return value
    if isinstance(value, type):
        raise TargetError(f'"{text}" is a class; name a function that returns (model, data)')
    needed = _needed(value)
    if needed:
        raise TargetError(f'"{text}" must be callable without arguments, but needs {", ".join(needed)}')
    return value()


def _needed(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variadic]


def _is_module(value: Any) -> bool:
    from torch import nn

    return isinstance(value, nn.Module)


def _arguments(value: Any, text: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        arguments = dict(value)
    elif isinstance(value, (tuple, list)) and len(value) == 2:
        arguments = {"model": value[0], "sample_batch": value[1]}
    elif _is_module(value):
        raise TargetError(f'"{text}" gives a model alone; give (model, data), where data is a batch or a DataLoader')
    else:
        raise TargetError(
            f'"{text}" gives a {type(value).__name__}; expected (model, data) or a mapping with the arguments of advise'
        )
    for key in arguments:
        if key not in arguments_of_advise():
            known = nearest(str(key), arguments_of_advise())
            raise TargetError(f'"{text}" gives "{key}", which advise does not take; {known}')
    missing = [key for key in REQUIRED if key not in arguments]
    if missing:
        raise TargetError(f'"{text}" gives no {" and no ".join(missing)}')
    if not _is_module(arguments["model"]):
        kind = type(arguments["model"]).__name__
        raise TargetError(f'"{text}": the model is a {kind}, not a torch.nn.Module')
    return arguments


def _quoting(text: str, folder: Path, run: Any) -> Any:
    """Run the user's code; whatever it raises becomes one line with type, message and place."""
    try:
        return run()
    except (InitAdvisorError, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        place = f"{error.filename}:{error.lineno}"
        raise TargetError(f'"{text}" cannot be loaded: {place}: SyntaxError: {error.msg}') from error
    except (Exception, SystemExit) as error:
        frame = _innermost(error, folder)
        place = f"{frame.filename}:{frame.lineno}: " if frame else ""
        raise TargetError(f'"{text}" cannot be loaded: {place}{one_line(error)}') from error


def _is_below(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except OSError:
        return False


def _lies_in(module: ModuleType | None, folder: Path) -> bool:
    """Whether a module's file lies in ``folder`` itself, installed packages below it excepted."""
    file = getattr(module, "__file__", None)
    if not file or "site-packages" in Path(file).parts:
        return False
    return _is_below(Path(file), folder)
