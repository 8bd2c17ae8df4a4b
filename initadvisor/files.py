"""Files are written whole or not at all, tried before the work begins, and never laid over what the work reads.

The one writer of this package: recipes, reports and weights go through :func:`write_with`. A new file is written beside
its place and renamed into it, so that a full disk, an error or an interrupt leaves the earlier file as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from initadvisor.errors import InputError

_SOURCES = frozenset({".py", ".pyi", ".pyx", ".ipynb"})
"""Endings of files that hold somebody's code: none of our results is one, so an existing one is never replaced."""

_CANNOT_RENAME = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV})
"""Why a file can be written though nothing can take its place: its folder is locked, or it is a mount of its own."""


def write_text(path: str | Path, text: str) -> Path:
    """Write text as UTF-8; see :func:`write_with`."""
    data = text.encode("utf-8", "backslashreplace")  # half characters, which a file name may hold
    return write_with(path, lambda file: _write_bytes(file, data))


def write_with(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` make a file, and put it in its place when it is whole.

    A link stays a link: what it points to is replaced. The mode of an existing file stays; a new one gets the user's
    usual mode. Devices and pipes are written to as they are.

    Args:
        path: where the file is wanted.
        write: is given the path to write to.

    Returns:
        ``path``.

    Raises:
        InputError: it cannot be written; whatever lay there before is as it was.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(Path(folder, "a.txt"), "whole").read_text()
        'whole'
    """
    wanted = Path(path)
    try:
        place = _place_of(wanted)
        aside, mode = _create_aside(place)
        try:
            write(aside)
            _settle(aside, mode)
            _put(aside, place)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()
    except (OSError, ValueError) as error:
        raise cannot_write(wanted, error) from error
    return wanted


def cannot_write(path: Path, error: Exception) -> InputError:
    """The error of a file that cannot be written, with what would help."""
    why = getattr(error, "strerror", None) or str(error)
    number = getattr(error, "errno", None)
    if number == errno.ENOENT and path.absolute().parent.is_dir():  # a folder that takes no files, as /proc
        number = None
    help_ = {
        errno.ENOSPC: "free some space, or name a file on another disk",
        errno.EDQUOT: "free some of your quota, or name a file on another disk",
        errno.ENOENT: f"make its folder first: mkdir -p {path.absolute().parent}",
        errno.ENAMETOOLONG: "name it shorter",
    }
    return InputError(
        f'"{path}" cannot be written: {why}; {help_.get(number or 0, "name a file in a folder of yours")}'
    )


def try_outputs(outputs: Mapping[str, Path | None], *, inputs: Iterable[Path] = ()) -> None:
    """Prove, before any work, that results can be written where they are wanted and replace nothing that is read.

    Args:
        outputs: option (``"--out"``) -> file, None where it was not given.
        inputs: files that the work reads: recipes, saved advice, the source of the model.

    Raises:
        InputError: naming option and file: it is a folder, cannot be written, is an input or somebody's source, or two
            outputs are one file. Links and other spellings of a path are seen through.
    """
    given = [(option, file) for option, file in outputs.items() if file is not None]
    read = list(inputs)
    for index, (option, file) in enumerate(given):
        for source in read:
            if same_file(file, source):
                raise InputError(f'{option} "{file}" is read by this very command ({source}); name another file')
        for other, taken in given[:index]:
            if same_file(file, taken):
                raise InputError(f'{option} "{file}" is where {other} goes; give each a file of its own')
        try:
            place = _place_of(file)
            if place.is_dir():
                raise InputError(f'{option} "{file}" is a folder; name a file in it')
            if place.exists() and (place.suffix.lower() in _SOURCES or file.suffix.lower() in _SOURCES):
                raise InputError(f'{option} "{file}" holds code and is not replaced; name another file')
            _try(place)
        except (OSError, ValueError) as error:
            raise cannot_write(file, error) from error


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, through whatever links; also where it does not exist yet.

    Example:
        >>> same_file(Path("a/../b.txt"), Path("b.txt")), same_file(Path("a.txt"), Path("b.txt"))
        (True, False)
    """
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        pass
    try:
        return os.path.normcase(_place_of(one)) == os.path.normcase(_place_of(other))
    except (OSError, ValueError):
        return False


def _place_of(path: Path) -> Path:
    """The file itself, behind all links; devices and pipes by the name they were given."""
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(path.stat().st_mode):
            return path
    try:
        return path.resolve()
    except RuntimeError as error:  # a circle of links
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


def _is_special(place: Path) -> bool:
    """A device, pipe or socket: there is nothing to replace."""
    return place.exists() and not place.is_file()


def _create_aside(place: Path) -> tuple[Path, int]:
    """A new empty file beside a place (in the system's folder where nothing may be put beside it), and its mode."""
    if _is_special(place):
        if place.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return _create(Path(tempfile.gettempdir()))
    if place.exists() and not os.access(place, os.W_OK):
        raise OSError(errno.EACCES, "it is read-only")
    try:
        return _create(place.parent)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME or not place.exists():
            raise
        return _create(Path(tempfile.gettempdir()))


def _create(folder: Path) -> tuple[Path, int]:
    file = folder / f".{secrets.token_hex(8)}.part"
    # Opened so that it gets the user's usual mode, which libraries that write by themselves do not give.
    handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return file, stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def _write_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _settle(aside: Path, mode: int) -> None:
    """Its mode, and its content on the disk before its name is: a crash must not leave an empty file of that name."""
    aside.chmod(mode)
    with aside.open("rb+") as file:
        os.fsync(file.fileno())


def _put(aside: Path, place: Path) -> None:
    if _is_special(place):
        with aside.open("rb") as source, place.open("wb") as target:
            shutil.copyfileobj(source, target)
        return
    if place.exists():
        aside.chmod(stat.S_IMODE(place.stat().st_mode))
    try:
        aside.replace(place)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME:
            raise
        shutil.copyfile(aside, place)


def _try(place: Path) -> None:
    if _is_special(place):
        place.open("ab").close()
        return
    aside, _ = _create_aside(place)
    aside.unlink()
