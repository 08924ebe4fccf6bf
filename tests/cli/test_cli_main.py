import logging
import os
import subprocess
import sys
import time
import types

import pytest

import multierase
from multierase.cli import main as cli
from multierase.cli.console import print_lines
from multierase.cli.flags import Option
from multierase.cli.options import VERBS, Verb
from multierase.errors import CheckpointError, DeviceError, UnknownConcept, UsageError, WriteError

HOSTILE = "\x1b]52;c;ZWNobw==\x07 [/x] [red]no[/red]"


@pytest.fixture
def act(monkeypatch):
    """Install a verb ``act`` that does what the test says."""

    def act(work, told=lambda report: None, options=()):
        module = types.ModuleType("multierase.cli.verbs.acting")
        module.run_act, module.print_act = work, told
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(VERBS, "act", Verb("act", "acting", lambda: list(options), "act"))

    return act


def raising(error):
    def work(arguments):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("not so"), 2, "error: not so"),
        (ValueError("not so"), 1, "error: not so"),
        (KeyError("Noto"), 1, "error: KeyError('Noto')"),
        (UnknownConcept("no 'Notto'"), 1, "error: no 'Notto'"),
        (FileNotFoundError("no library"), 1, "error: no library"),
        (WriteError("disk full"), 1, "error: disk full"),
        (CheckpointError("other steps: 4, 5"), 1, "error: other steps: 4, 5"),
        (DeviceError("no CUDA here"), 1, "error: no CUDA here"),
        (FloatingPointError("diverged"), 1, "error: diverged"),
        (MemoryError(), 1, "error: out of memory: on this machine; try a smaller --batch-size"),
        (RuntimeError("odd"), 1, "error: this is a bug: RuntimeError: odd; --debug shows where"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_error_is_a_line_and_a_code(act, run, error, code, message):
    act(raising(error))
    got, out, err = run("act")
    assert (got, out) == (code, "")
    assert err.startswith(message)
    assert "Traceback" not in err


def test_a_gpu_without_memory_is_told_like_any_other(act, run):
    import torch

    act(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")))
    code, _, err = run("act")
    assert code == 1
    assert "Tried to allocate 2 GiB; try a smaller --batch-size" in err


def test_debug_shows_where(act):
    act(raising(RuntimeError("odd")))
    for arguments in (["act", "--debug"], ["--debug", "act"]):
        with pytest.raises(RuntimeError, match="odd"):
            cli.main(arguments)


def test_hostile_errors_and_logs_are_shown_and_not_obeyed(act, run):
    def work(arguments):
        logging.getLogger("multierase.x").warning("see %s", HOSTILE)
        raise ValueError(HOSTILE)

    act(work)
    code, _, err = run("act")
    assert code == 1
    assert all(char.isprintable() or char == "\n" for char in err)
    assert err.count("\\x1b]52") == 2
    assert err.count("[red]no[/red]") == 2


def test_hostile_arguments_are_shown_and_not_obeyed(run):
    for arguments in ([HOSTILE], ["ls", f"--{HOSTILE}"], ["ls", "--library", HOSTILE]):
        code, out, err = run(*arguments)
        assert code in (1, 2)
        assert out == ""
        assert "\x1b" not in err
        assert "\\x1b]52" in err
        assert "this is a bug" not in err


def test_a_report_is_printed_or_json_and_nothing_else(act, run, run_json):
    act(lambda arguments: {"a": 1}, lambda report: print_lines([f"a is {report['a']}"]))
    assert run("act") == (0, "a is 1\n", "")
    assert run_json("act") == {"a": 1}
    assert run("--json", "act") == (0, '{"a": 1}\n', "")


def test_what_is_not_sound_is_an_exit_code(act, run):
    act(lambda arguments: {"sound": False})
    assert run("act")[0] == 1
    assert run("act", "--json") == (1, '{"sound": false}\n', "")


def test_version_and_overview(run):
    assert run("--version") == (0, f"multierase {multierase.__version__}\n", "")
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all(f"  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a verb: demo, erase"),
        (["eraze", "x"], "unknown verb 'eraze'; did you mean 'erase'"),
        (["--library", "x", "ls"], "--library stands before the verb"),
        (["ls", "--librari", "x"], "unknown setting 'librari'; did you mean 'library'"),
        (["ls"], "--library is missing: folder of increments"),
        (["erase", "A", "--library", "L", "--config", "no.yaml"], "no.yaml: there is no such file"),
    ],
)
def test_a_wrong_command_is_a_usage_error(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


# --- interrupts


def interrupted(act, run, name, library, work, *more):
    options = [
        Option("--library", "l"),
        Option("--database", "d", type=str | None),
        Option("--resume", "r", switch=True),
    ]
    act(work, options=options)
    verb = VERBS.pop("act")
    sys.modules["multierase.cli.verbs.acting"].__dict__[f"run_{name}"] = work
    old, VERBS[name] = VERBS[name], verb
    try:
        return run(name, "--library", library, *more)
    finally:
        VERBS[name] = old


def test_an_interrupt_promises_resume_only_where_there_is_a_checkpoint(act, run, tmp_path):
    def with_checkpoint(arguments):
        (tmp_path / "noto.partial").write_text("")
        raise KeyboardInterrupt

    nothing = raising(KeyboardInterrupt())
    assert interrupted(act, run, "erase", tmp_path, nothing) == (130, "", "interrupted\n")
    code, _, err = interrupted(act, run, "erase", tmp_path, with_checkpoint)
    assert (code, err) == (130, "interrupted; go on with the same command and --resume\n")

    # An old checkpoint is another command's, unless this one has taken it up.
    past = time.time() - 100
    os.utime(tmp_path / "noto.partial", (past, past))
    assert interrupted(act, run, "erase", tmp_path, nothing)[2] == "interrupted\n"
    assert "--resume" in interrupted(act, run, "erase", tmp_path, nothing, "--resume")[2]
    assert interrupted(act, run, "crosstalk", tmp_path, with_checkpoint)[2] == "interrupted\n"


def test_an_interrupted_sweep_goes_on_by_itself(act, run, tmp_path):
    database = tmp_path / "sweep.db"
    nothing = raising(KeyboardInterrupt())
    flags = ("--database", database)
    assert interrupted(act, run, "sweep", tmp_path, nothing, *flags)[2] == "interrupted\n"
    database.write_text("")
    said = interrupted(act, run, "sweep", tmp_path, nothing, *flags)[2]
    assert said == "interrupted; the same command goes on where it stopped\n"


# --- the process


def python(code, **more):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, **more
    )


QUICK_COMMANDS = [
    ["--help"],
    ["--version"],
    ["eraze"],
    ["ls", "--librari", "x"],
    ["ls", "--library", "LIB"],
    ["ls", "--library", "LIB", "--json"],
    ["show", "Notto", "--library", "LIB"],
    ["erase", "Noto", "--library", "LIB"],
    ["erase", "Noto", "noto", "--library", "NEW"],
    ["erase", "Noto", "--library", "NEW", "--scope", "xattn"],
    ["erase", "Noto", "--library", "NEW", "--learning-rate", "-1"],
    ["generate", "x", "--library", "LIB", "--erase", "Notto", "--out", "x.png"],
    *([verb, "--help"] for verb in VERBS),
]


def test_help_lists_and_mistakes_load_no_torch(lib, tmp_path):
    places = {"LIB": str(lib), "NEW": str(tmp_path / "new")}
    commands = [[places.get(word, word) for word in command] for command in QUICK_COMMANDS]
    code = (
        "import sys; from multierase.cli.main import main\n"
        f"for command in {commands!r}:\n"
        "    main(command)\n"
        "    heavy = {'torch', 'diffusers', 'transformers', 'scipy', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, (command, heavy)\n"
    )
    ended = python(code)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["--help", "erase --help", "ls --library LIB", "eraze"])
def test_help_lists_and_mistakes_answer_at_once(lib, command):
    words = command.replace("LIB", str(lib)).split()
    seconds = []
    for _ in range(3):  # the quickest, for the machine may be busy
        began = time.perf_counter()
        python(f"from multierase.cli.main import main; main({words!r})")
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1.0


def test_a_closed_pipe_ends_quietly(lib):
    module = f"{sys.executable} -m multierase"
    for command in ("erase --help", f"ls --library {lib}"):
        ended = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {module} {command} | true"],
            capture_output=True,
            text=True,
        )
        assert (ended.returncode, ended.stderr) == (0, "")


def test_a_terminal_without_unicode_is_no_error(lib, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "multierase", "ls", "--library", str(tmp_path / "ピカチュウ")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ended.returncode == 1
    assert "no library folder" in ended.stderr
