"""The command line as a stranger uses it: results, exit codes, one-line errors, pipes, configuration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from validator import validate

from initadvisor.cli import main

MODEL = """
import torch
from torch import nn

def blobs(n=256):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (n,), generator=g)
    return torch.randn(3, 8, generator=g)[y] + 0.3 * torch.randn(n, 8, generator=g), y

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))

def target():
    x, y = blobs()
    batches = list(zip(x.split(32), y.split(32)))
    return {"model": net(), "sample_batch": batches, "optimizer": torch.optim.SGD, "lr": 0.1, "budget": 120}

def pair():
    return net(), blobs()

def slow():
    return {**target(), "budget": 600.0, "steps": 40_000}

def own_loss():
    x, _ = blobs()
    return {"model": net(), "sample_batch": (x, x[:, :2]), "loss": lambda out, y: (out[:, :2] - y).square().mean()}

def no_module():
    return "not a model", blobs()

def wrong_batch():
    return net(), (torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))

def no_loss():
    return net(), torch.zeros(4, 8)

def not_a_number():
    x, y = blobs()
    return net(), (x * float("nan"), y)

def frozen():
    return net().requires_grad_(False), blobs()

def raises():
    raise RuntimeError("the disk is on fire")

def nothing():
    return None

constant = 3
"""


def run(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "initadvisor", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **env},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("project")
    (path / "train.py").write_text(MODEL)
    (path / "broken.py").write_text("def target(:\n")
    (path / "bad.yaml").write_text("format: 1\nname: x\nrules:\n  - match: '**'\n    init: orthogonl\n")
    (path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    return path


@pytest.fixture(scope="module")
def advised(folder: Path) -> subprocess.CompletedProcess[str]:
    return run("advise", "train.py", "--out", "r.yaml", "--html", "r.html", cwd=folder)


def test_advise_tells_and_writes(advised: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert advised.returncode == 0, advised.stderr
    assert "What the alternatives scored" in advised.stdout
    assert "recipe written to r.yaml" in advised.stderr
    assert "\x1b[" not in advised.stdout
    assert max(map(len, advised.stdout.splitlines())) <= 80
    assert (folder / "r.yaml").read_text().count("match:") >= 1
    assert "<!doctype html" in (folder / "r.html").read_text().lower()


def test_a_recipe_is_applied_and_written(advised: subprocess.CompletedProcess[str], folder: Path) -> None:
    from safetensors.torch import load_file

    done = run("apply", "r.yaml", "train.py", "--out", "w.safetensors", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert set(load_file(folder / "w.safetensors")) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert (folder / "w.safetensors").stat().st_mode == (folder / "r.yaml").stat().st_mode


def test_a_recipe_that_descends_is_given_the_targets_own_loss(folder: Path) -> None:
    rule = "  - match: '{}'\n    init: {}\n    rule: example\n    reason: for show\n"
    rules = f"rules:\n{rule.format('*.weight', 'orthogonal')}{rule.format('*.bias', 'zeros')}"
    steps = "calibrations:\n  - method: metainit\n    args: {steps: 2}\n"
    (folder / "descends.yaml").write_text(f"format: 1\nname: x\n{rules}{steps}")
    done = run("apply", "descends.yaml", "train.py:own_loss", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "2 tensors rescaled" in done.stdout
    assert "undone" not in done.stdout


def test_json_is_the_only_thing_on_standard_output(folder: Path) -> None:
    done = run("advise", "train.py:pair", "--budget", "100", "--lr", "0.1", "--json", cwd=folder)
    document = json.loads(done.stdout)
    assert done.returncode == 0
    (folder / "advice.json").write_text(done.stdout)
    again = run("report", "advice.json", cwd=folder)
    assert again.returncode == 0
    assert document["headline"].split(":")[0][:30] in again.stdout.replace("\n", " ")
    spec = json.loads(run("analyze", "train.py", "--json", cwd=folder).stdout)
    assert len(spec["spec"]["params"]) == 4


def test_analyze_list_and_explain(folder: Path) -> None:
    done = run("analyze", "train.py:pair", cwd=folder)
    assert done.returncode == 0
    assert "0.weight" in done.stdout
    assert "tanh" in done.stdout
    names = run("list", cwd=folder).stdout
    assert "orthogonal" in names
    told = run("explain", "he_normal", cwd=folder).stdout
    assert "kaiming_normal" in told
    assert "@misc{he2015" in told


def test_check_finds_what_is_planted_and_its_recipe_mends_it(folder: Path) -> None:
    planted = MODEL.replace("return nn.Sequential(", "return plant(nn.Sequential(").replace(
        "nn.Linear(16, 3))", "nn.Linear(16, 3)))"
    )
    planted += "\ndef plant(m):\n    nn.init.constant_(m[0].weight, 0.1)\n    return m\n"
    (folder / "planted.py").write_text(planted)
    assert run("check", "train.py", cwd=folder).returncode == 0
    done = run("check", "planted.py", "--fix", "mend.yaml", cwd=folder)
    assert done.returncode == 1, done.stderr
    assert "INI104" in done.stdout
    assert run("check", "planted.py", "--ignore", "INI104", "--select", "INI1", cwd=folder).returncode == 0
    assert run("check", "planted.py", "--fail-on", "never", cwd=folder).returncode == 0
    document = json.loads(run("check", "planted.py", "--json", cwd=folder).stdout)
    assert "INI104" in json.dumps(document)
    assert run("apply", "mend.yaml", "planted.py", cwd=folder).returncode == 0


def test_diff_compares_what_is_filled(folder: Path) -> None:
    rule = "  - {{match: '**', init: {}, reason: {}}}\n"
    for name, init, reason in (("a", "zeros", "x"), ("b", "zeros", "other words"), ("c", "ones", "x")):
        (folder / f"{name}.yaml").write_text("format: 1\nname: n\nrules:\n" + rule.format(init, reason))
    assert run("diff", "a.yaml", "b.yaml", cwd=folder).returncode == 0
    done = run("diff", "a.yaml", "c.yaml", cwd=folder)
    assert done.returncode == 1
    assert "zeros" in done.stdout
    assert "ones" in done.stdout


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("advise", "nosuch.py"), "nosuch.py"),
    "no name": (("advise", "train.py:nosuch"), "nosuch"),
    "no module": (("advise", "no.such.module:f"), "no.such.module"),
    "syntax": (("analyze", "broken.py"), "broken.py"),
    "not callable": (("analyze", "train.py:constant"), "constant"),
    "gives nothing": (("analyze", "train.py:nothing"), "nothing"),
    "not a model": (("advise", "train.py:no_module"), "nn.Module"),
    "user code raises": (("advise", "train.py:raises"), "the disk is on fire"),
    "batch does not fit": (("analyze", "train.py:wrong_batch"), "mat1 and mat2"),
    "no loss": (("advise", "train.py:no_loss"), "loss"),
    "NaN": (("advise", "train.py:not_a_number"), "NaN"),
    "frozen": (("advise", "train.py:frozen"), "no trainable parameter"),
    "no recipe": (("apply", "nosuch.yaml", "train.py"), "nosuch.yaml"),
    "bad recipe": (("apply", "bad.yaml", "train.py"), "orthogonal"),
    "binary recipe": (("apply", "binary.yaml", "train.py"), "binary.yaml"),
    "unknown initializer": (("explain", "xavier_nromal"), 'did you mean "xavier_normal"'),
    "storage": (("advise", "train.py", "--storage", "sqlite:////no/such/folder/x.db"), "storage"),
    "storage URL": (("advise", "train.py", "--storage", "nonsense://x"), "storage"),
    "out folder": (("advise", "train.py", "--out", "no/such/folder/r.yaml"), "no/such/folder"),
    "budget": (("advise", "train.py", "--budget", "a lot"), "budget"),
    "rate": (("advise", "train.py", "--lr", "-1"), "lr"),
    "candidate": (("advise", "train.py", "--candidate", "orthogonl"), "orthogonl"),
    "protect": (("advise", "train.py", "--protect", "encoder.*"), "encoder"),
    "check": (("check", "train.py", "--select", "INI9999"), "INI9999"),
    "format": (("check", "train.py", "--format", "xml"), "xml"),
    "fail-on": (("check", "train.py", "--fail-on", "fatal"), "fatal"),
    "option": (("advise", "train.py", "--bugdet", "fast"), "--budget"),
    "command": (("advice", "train.py"), "advice"),
}


# The rest is read by the very function the program runs; these few are also started as a stranger would start them.
STARTED = ("no file", "batch does not fit", "bad recipe")


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words, says = BAD[name]
    monkeypatch.chdir(folder)
    if name in STARTED:
        done = run(*words, cwd=folder)
        code, out, err = done.returncode, done.stdout, done.stderr
    else:
        path, modules = list(sys.path), set(sys.modules)
        code = main(list(words))
        out, err = capfd.readouterr()
        assert sys.path == path
        assert not {m for m in set(sys.modules) - modules if m in ("train", "broken")}
    lines = [line for line in err.splitlines() if line.startswith("initadvisor: error:")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert says in lines[0]
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("analyze", ("analyze", "train.py")),
        ("check", ("check", "train.py")),
        ("apply", ("apply", "mlp.yaml", "train.py")),
        ("diff", ("diff", "mlp.yaml", "mlp2.yaml")),
        ("explain", ("explain", "orthogonal")),
        ("explain", ("explain", "INI104")),
        ("list", ("list",)),
        ("advise", ("advise", "train.py", "--budget", "60", "--quiet")),
    ],
)
def test_json_of_every_command_fits_its_published_schema(
    name: str,
    words: tuple[str, ...],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    rule = "format: 1\nname: n\nrules:\n  - {{match: '**', init: {}, reason: x}}\nprovenance: {{seed: 7}}\n"
    (folder / "mlp.yaml").write_text(rule.format("zeros"))
    (folder / "mlp2.yaml").write_text(rule.format("ones"))
    assert main(["schema", name]) == 0
    schema = json.loads(capfd.readouterr().out)
    code = main([*words, "--json"])
    assert code == (1 if name == "diff" else 0)
    document = json.loads(capfd.readouterr().out)
    validate(document, schema)
    if name == "apply":  # the recipe's own seed, so that it gives the weights its evidence is about
        assert document["result"]["seed"] == 7


def test_everything_listed_can_be_explained(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--quiet"]) == 0
    names = capfd.readouterr().out.split()
    assert len(names) > 50
    for name in names:
        assert main(["explain", name]) == 0, name
        assert name in capfd.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], *([c] for c in ("advise", "analyze", "check", "diff", "apply", "report", "explain", "list", "schema"))]
)
def test_help_fits_60_columns(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main([*argv, "--help"]) == 0
    out = capfd.readouterr().out
    assert "Examples" in out or not argv
    # Examples are for copying and are not wrapped, so they must be short by themselves.
    assert max(map(len, out.splitlines())) <= 64


def test_a_bug_of_ours_is_not_called_the_users(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error that never passed through the user's files shows its traceback and has a code of its own."""
    import initadvisor.cli.reading as reading

    def broken(*args: object, **kwargs: object) -> str:
        raise ZeroDivisionError("planted")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(reading, "render_spec", broken)
    assert main(["analyze", "train.py"]) == 3
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "bug in initadvisor" in err


def test_the_main_block_of_a_target_does_not_run(tmp_path: Path) -> None:
    from initadvisor.cli.target import open_target

    (tmp_path / "helper_of_target.py").write_text("WIDTH = 3\n")
    (tmp_path / "own_target.py").write_text(
        "from torch import nn\nimport torch, helper_of_target\nprint('noise')\n"
        "def target():\n    return nn.Linear(helper_of_target.WIDTH, 2), (torch.zeros(4, 3), torch.zeros(4, 2))\n"
        "if __name__ == '__main__':\n    raise SystemExit('must not run')\n"
    )
    path, modules = list(sys.path), set(sys.modules)
    with open_target(str(tmp_path / "own_target.py")) as opened:
        assert opened.model.in_features == 3
        assert str(tmp_path) in sys.path
    assert sys.path == path
    assert not {"helper_of_target", "own_target"} & (set(sys.modules) - modules)


def test_settings_come_from_pyproject_and_flags_win(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(MODEL)
    (tmp_path / "pyproject.toml").write_text('[tool.initadvisor.advise]\nbudget = "nonsense"\n')
    assert run("advise", "train.py:pair", cwd=tmp_path).returncode == 2
    assert run("advise", "train.py:pair", "--budget", "60", "--lr", "0.1", cwd=tmp_path).returncode == 0
    (tmp_path / "pyproject.toml").write_text("[tool.initadvisor]\nbugdet = 3\n")
    done = run("advise", "train.py:pair", cwd=tmp_path)
    assert done.returncode == 2
    assert "budget" in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[tool.initadvisor]\nselect = ["XYZ"]', "XYZ"),
        ("[tool.initadvisor.check]\nignore = 3", '"3"'),
        ('[tool.initadvisor.check]\nfail-on = "bad"', "bad"),
        ("[tool.initadvisor.check]\nfail-on = [1]", "pyproject.toml"),
        ("[tool.initadvisor]\nbugdet = 3", "pyproject.toml"),
        ("[tool.initadvisor]\nbudget = {a = 1}", "pyproject.toml"),
        ("[tool]\ninitadvisor = 3", "pyproject.toml"),
        ("not toml [", "pyproject.toml"),
    ],
)
def test_bad_settings_are_one_line(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text(MODEL)
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "train.py"]) == 2
    err = capfd.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1


def test_settings_of_the_nearest_pyproject_hold_for_each_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "planted.py").write_text(
        MODEL.replace("return nn.Sequential", "return plant(nn.Sequential").replace(
            "3))\n\ndef target", "3)))\n\ndef target"
        )
        + "\ndef plant(m):\n    nn.init.constant_(m[0].weight, 0.1)\n    return m\n"
    )
    monkeypatch.chdir(inner)
    settings = tmp_path / "pyproject.toml"
    settings.write_text('[tool.initadvisor]\nquiet = true\n[tool.initadvisor.check]\nfail-on = "never"\n')
    assert main(["check", "planted.py"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1
    settings.write_text('[tool.initadvisor.check]\nselect = "INI9"\n')
    assert main(["check", "planted.py"]) == 0
    settings.write_text("[tool.initadvisor]\nquiet = true\n")
    assert main(["check", "planted.py"]) == 1


def test_help_teaches_without_loading_torch(folder: Path) -> None:
    code = (
        "import sys; from initadvisor.cli import main; main(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'optuna', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0
    for command in ("advise", "analyze", "check", "apply", "explain", "list", "report"):
        assert command in done.stdout


def test_a_dry_run_says_the_plan_and_trains_nothing_more(folder: Path) -> None:
    done = run("advise", "train.py", "--dry-run", "--budget", "400", "--out", "none.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "steps of" in done.stdout
    assert "400 optimizer steps" in done.stdout
    assert not (folder / "none.yaml").exists()


def test_ctrl_c_gives_the_advice_that_finished_trials_allow(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "initadvisor", "advise", "train.py:slow", "--out", "stopped.yaml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        # Under a shell's ``&`` this process ignores the signal, and a child would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    seen = process.stderr.readline()  # the first line of progress: trials have begun
    assert "initadvisor" in seen
    time.sleep(6)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Stopped early" in out
    assert "Traceback" not in err
    assert "stopped by Ctrl-C" in err.splitlines()[-1]
    assert (folder / "stopped.yaml").exists()
