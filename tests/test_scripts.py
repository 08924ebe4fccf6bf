import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize(
    "script, made",
    [("sequential_artists.py", ["sheet.png"]), ("combinatorial_evaluation.py", ["sweep.db", "report/index.html"])],
)
def test_what_users_copy_runs_from_nothing(script, made, tmp_path):
    command = [sys.executable, SCRIPTS / script, "--out", tmp_path, "Twemoji", "Noto"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    assert all((tmp_path / name).stat().st_size > 0 for name in made)
    assert sorted(path.name for path in (tmp_path / "lib").glob("*.safetensors")) == [
        "noto.safetensors", "twemoji.safetensors"
    ]  # fmt: skip
