"""What a user sees of other libraries: their warnings and errors, not their advertisements."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from multierase.cli.third_parties import NOTICES, quieten


@pytest.fixture
def quiet(monkeypatch):
    """Quieten, and take the filters away afterwards."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    before = {name: list(logging.getLogger(name).filters) for name in NOTICES}
    quieten()
    yield
    for name, filters in before.items():
        logging.getLogger(name).filters[:] = filters


@pytest.mark.parametrize("name", NOTICES)
def test_the_notices_are_left_out_and_nothing_else_is(name, quiet, caplog, monkeypatch):
    logger = logging.getLogger(name)
    parent = logging.getLogger(name.partition(".")[0])
    monkeypatch.setattr(parent, "propagate", True)
    caplog.set_level(logging.WARNING, logger=parent.name)

    logger.warning(f"`X` {NOTICES[name]} `Y`: %s", "why")
    logger.warning("a real warning")
    logger.error("a real error")
    logging.getLogger(f"{name}.other").warning("of another module")
    assert list(dict.fromkeys(record.getMessage() for record in caplog.records)) == [
        "a real warning",
        "a real error",
        "of another module",
    ]


@pytest.mark.parametrize("name", NOTICES)
def test_the_notices_are_those_of_the_installed_versions(name):
    """A notice that a library has reworded would be shown again, and this entry would be idle."""
    library, *inner = name.split(".")
    spec = importlib.util.find_spec(library)
    if spec is None:
        pytest.skip(f"{library} is not installed")
    source = Path(spec.origin).parent.joinpath(*inner).with_suffix(".py").read_text("utf-8")
    assert NOTICES[name] in source


def test_to_import_multierase_changes_nobodys_logging():
    code = (
        "import logging, os, multierase, multierase.cli.main\n"
        "from multierase.cli.third_parties import NOTICES\n"
        "assert 'TQDM_DISABLE' not in os.environ\n"
        "assert not any(logging.getLogger(name).filters for name in NOTICES)\n"
        "assert not logging.getLogger().handlers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def program(tmp_path):
    """Start the program as its installed script does, in a process of its own."""
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\nfrom multierase.__main__ import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    environment = {**os.environ}
    for name in ("TRANSFORMERS_VERBOSITY", "TQDM_DISABLE", "TQDM_MININTERVAL"):
        environment.pop(name, None)

    def program(*words):
        return subprocess.Popen(
            [sys.executable, script, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )

    return program


@pytest.mark.slow
def test_of_a_whole_run_only_our_lines_are_seen(program, lib):
    words = ("generate", "a church", "--library", lib, "--erase", "Noto", "--out", "x.png")
    out, err = program(*words, "--inference-steps", "2").communicate()
    loading, bar, wrote = err.splitlines()
    assert loading == "loading emoji ..."
    assert bar.startswith("pictures: 100%")
    assert wrote == "wrote x.png, with rows: Noto erased"
    assert out.startswith("erased\n")


@pytest.mark.slow
def test_the_workers_of_a_sweep_advertise_nothing(program, lib):
    words = ("sweep", "--library", lib, "--sets", "pairs", "--database", "x.db")
    process = program(*words, "--workers", "2", "--inference-steps", "1")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert not any(notice in err for notice in NOTICES.values())
    loading, *bars, wrote, following = err.splitlines()
    assert loading == "loading emoji ..."
    assert all(bar.startswith("sets: ") for bar in bars)  # one, but for a very slow machine
    assert wrote == "wrote x.db: 2 sets"
    assert following == "next: multierase report x.db --out report"


COMMANDS = {
    "erase": ("Firefox", "--library", "LIB"),
    "generate": ("a church", "--out", "x.png"),
    "export": ("--library", "LIB", "--erase", "Noto", "--out", "served"),
    "certify": ("--library", "LIB", "--erase", "Noto"),
    "crosstalk": ("--library", "LIB", "--out", "x.png"),
    "validate": ("--library", "LIB"),
    "compress": ("--library", "LIB", "--out", "small"),
    "evaluate": ("--library", "LIB", "--erase", "Noto"),
    "sweep": ("--library", "LIB", "--database", "x.db"),
    "demo": ("--out", "demo"),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", COMMANDS)
def test_something_is_seen_before_torch_is_imported(program, lib, verb):
    """torch takes seconds; ``-X importtime`` is not needed: what is imported later comes later."""
    words = [str(lib) if word == "LIB" else word for word in COMMANDS[verb]]
    code = (
        "import sys, logging\n"
        "from multierase.cli import console\n"
        "from multierase.cli.main import main\n"
        "def said(message, **more):\n"
        "    heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "    print(message, sorted(heavy))\n"
        "    sys.stdout.flush()\n"
        "    import os; os._exit(0)\n"
        "console.say = said\n"
        f"main({[verb, *words]!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("... []\n"), done.stdout + done.stderr
