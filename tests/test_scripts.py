"""What users copy runs from nothing, and does what it says."""

import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

from multierase import Library, Workspace
from multierase.evaluation.store import Store
from multierase.files import digest_tensors

SCRIPTS = Path(__file__).parents[1] / "scripts"
ARTISTS = ("Twemoji", "Noto")

pytestmark = pytest.mark.slow


def run(script, *arguments):
    """Run a script in a process of its own; return what it prints."""
    command = [sys.executable, SCRIPTS / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]

    return done.stdout


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """The folder that ``sequential_artists.py`` has made."""
    out = tmp_path_factory.mktemp("sequence")
    assert run("sequential_artists.py", "--out", out, *ARTISTS).strip() == str(out / "sheet.png")

    return out


def test_artists_are_erased_one_after_another(sequence):
    assert sorted(Library(sequence / "lib")) == sorted(ARTISTS)
    with Image.open(sequence / "sheet.png") as sheet:
        # Base, one erased, both erased, the first restored; two pictures in each row.
        assert sheet.height > 4 * 128
        assert sheet.width > 2 * 128


def test_one_artist_is_restored_and_the_rest_is_served(sequence, tmp_path, emoji):
    served = tmp_path / "served"
    arguments = ["--library", sequence / "lib", "--restore", "Twemoji", "--out", served]
    assert run("restore_one.py", *arguments).strip() == f"{served} with Noto erased"

    written = dict(StableDiffusionPipeline.from_pretrained(served).unet.named_parameters())
    with Workspace(sequence / "lib", emoji).erasing("Noto"):
        wanted = dict(emoji.pipeline.unet.named_parameters())
        assert digest_tensors(written) == digest_tensors(wanted)


def test_every_combination_is_judged(sequence, tmp_path):
    (tmp_path / "lib").symlink_to(sequence / "lib")
    printed = run("combinatorial_evaluation.py", "--out", tmp_path, "--workers", "1", *ARTISTS)

    page, worst = printed.strip().splitlines()
    assert Path(page) == tmp_path / "report" / "index.html"
    assert "Noto + Twemoji" in Path(page).read_text()
    assert "erased: the others keep" in worst
    with Store.reading(tmp_path / "sweep.db") as store:
        assert store.done() == {(), ("Noto",), ("Twemoji",), ("Noto", "Twemoji")}
