import json
from pathlib import Path

REPORT = {
    "accuracy": {"base": {"Noto": 1.0, "Twemoji": 0.5}, "both erased": {"Noto": 0.0, "Twemoji": 0}},
    "erased": {"base": [], "both erased": ["Noto", "Twemoji"]},
    "bit_exact": {"all_restored_equals_base": True},
    "used_again": ["Noto"],
    "seconds": 12.5,
}


def test_demo_passes_its_flags_on_and_prints_the_report(run, tmp_path, monkeypatch):
    from multierase import demo

    asked = []

    def run_demo(model, folder, settings, *, overwrite, progress):
        asked.append((model.name, folder, settings.steps, overwrite))
        return REPORT

    monkeypatch.setattr(demo, "run_demo", run_demo)
    flags = ("demo", "--out", tmp_path / "here", "--steps", "3")
    code, out, err = run(*flags)
    assert code == 0
    assert "100.0%" in out
    assert "all_restored_equals_base" in out
    assert "used again the increments of Noto" in err
    assert json.loads(run(*flags, "--overwrite", "--json")[1])["seconds"] == 12.5
    here = Path(tmp_path / "here")
    assert asked == [("emoji", here, 3, False), ("emoji", here, 3, True)]


def test_many_concepts_are_summed_up(run, tmp_path, monkeypatch):
    from multierase import demo

    names = [f"typeface {place}" for place in range(8)]
    gone = {name: 0.25 if place < 4 else 0.75 for place, name in enumerate(names)}
    report = REPORT | {
        "accuracy": {"base": dict.fromkeys(names, 1.0), "four erased": gone},
        "erased": {"base": [], "four erased": names[:4]},
    }
    monkeypatch.setattr(demo, "run_demo", lambda *_, **__: report)

    out = run("demo", "--out", tmp_path / "here")[1]
    assert "of the erased" in out
    assert "typeface 0" not in out
    line = next(line for line in out.splitlines() if line.startswith("four erased"))
    assert line.split()[-2:] == ["25.0%", "75.0%"]
