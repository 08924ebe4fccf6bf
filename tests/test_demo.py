import json

from multierase.cli import main
from multierase.demo import FIRST, SECOND, UNTOUCHED, states


def test_demo_does_what_it_promises(capsys, tmp_path):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "report.json").read_text())
    assert report["bit_exact"] == {"restored_equals_never_erased": True, "all_restored_equals_base": True}
    accuracy = report["accuracy"]
    assert list(accuracy) == list(states())
    assert accuracy["all restored"] == accuracy["base"]
    assert accuracy["both off"][FIRST] <= accuracy["base"][FIRST] - 0.5
    assert accuracy["both off"][SECOND] <= accuracy["base"][SECOND] - 0.5
    assert accuracy[f"{FIRST} restored"][FIRST] >= accuracy["base"][FIRST] - 0.3
    for studio in UNTOUCHED:
        assert accuracy[f"{FIRST} off"][studio] >= accuracy["base"][studio] - 0.3
    assert sorted(path.name for path in (out / "lib").iterdir()) == ["firefox.safetensors", "twemoji.safetensors"]
    assert (out / "sheet.png").stat().st_size > 10_000
