"""The one writer: a file is whole or as it was, and no output lies over an input, a source or another output."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import initadvisor.files as files
from initadvisor.errors import InputError
from initadvisor.files import same_file, try_outputs, write_text, write_with


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def half(error: BaseException) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_text("half of i")
        raise error

    return write


FAILURES = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "quota"), ValueError("a bug")]


@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_a_write_that_fails_leaves_the_earlier_file(error: Exception, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("yesterday")
    before = content(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        write_with(file, half(error))
    assert content(tmp_path) == before
    with pytest.raises(InputError):
        write_with(tmp_path / "new.yaml", half(error))
    assert content(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_a_write_that_is_stopped_leaves_the_earlier_file(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("yesterday")
    before = content(tmp_path)
    with pytest.raises(type(error)):
        write_with(tmp_path / "r.yaml", half(error))
    assert content(tmp_path) == before


def test_links_and_modes_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text("yesterday")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "today")
    assert link.is_symlink()
    assert real.read_text() == "today"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    dangling = tmp_path / "dangling.yaml"
    dangling.symlink_to(tmp_path / "made.yaml")
    write_text(dangling, "x")
    assert (tmp_path / "made.yaml").read_text() == "x"
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "fresh", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EBUSY, errno.EXDEV])
def test_a_file_whose_folder_takes_nothing_new_is_written_in_place(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("yesterday")

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if number in (errno.EACCES, errno.EROFS):
        create = files._create
        monkeypatch.setattr(files, "_create", lambda folder: refused() if folder == tmp_path else create(folder))
    else:
        monkeypatch.setattr(Path, "replace", refused)
    write_text(file, "today")
    assert content(tmp_path) == {"r.yaml": b"today"}


def test_devices_and_pipes_are_written_as_they_are(tmp_path: Path) -> None:
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(InputError, match="No space left"):
        write_text("/dev/full", "x")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert got == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["", ".", "no/such/folder/r.yaml", "x" * 300, "a\0b", "loop", "file/r.yaml"])
def test_what_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("x")
    for use in (lambda p: write_text(p, "x"), lambda p: try_outputs({"--out": p})):
        with pytest.raises(InputError) as caught:
            use(tmp_path / name)
        assert "\n" not in str(caught.value)


SPELLINGS: dict[str, Callable[[Path, str], Path]] = {
    "plain": lambda root, name: root / name,
    "dots": lambda root, name: root / "sub" / ".." / name,
    "linked folder": lambda root, name: root / "other" / name,
    "link": lambda root, name: root / f"link_{name}",
    "hard link": lambda root, name: root / f"hard_{name}",
    "relative": lambda root, name: Path(os.path.relpath(root / name)),
}


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("maze")
    (root / "sub").mkdir()
    (root / "other").symlink_to(root, target_is_directory=True)
    for name in ("a", "b"):
        (root / name).write_text(name)
        (root / f"link_{name}").symlink_to(root / name)
        (root / f"hard_{name}").hardlink_to(root / name)
    (root / "link_new").symlink_to(root / "new")
    return root


PLACE = st.tuples(st.sampled_from(sorted(SPELLINGS)), st.sampled_from(["a", "b", "new"])).filter(
    lambda p: p != ("hard link", "new")
)


@given(PLACE, PLACE, PLACE)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_file_is_known_under_all_its_names(
    maze: Path, source: tuple[str, str], one: tuple[str, str], two: tuple[str, str]
) -> None:
    paths = [SPELLINGS[spelling](maze, name) for spelling, name in (source, one, two)]
    names = [name for _, name in (source, one, two)]
    before = content(maze)
    assert same_file(paths[0], paths[1]) == (names[0] == names[1])
    clash = names[0] in names[1:] or names[1] == names[2]
    try:
        try_outputs({"--out": paths[1], "--html": paths[2]}, inputs=[paths[0]])
    except InputError as error:
        assert clash, error
        assert "name another file" in str(error) or "file of its own" in str(error)
    else:
        assert not clash
    assert content(maze) == before


def test_somebodys_code_is_never_replaced(tmp_path: Path) -> None:
    for name in ("model.py", "notes.ipynb"):
        (tmp_path / name).write_text("code")
        with pytest.raises(InputError, match="holds code"):
            try_outputs({"--out": tmp_path / name})
    try_outputs({"--out": tmp_path / "new.yaml", "--html": None})
