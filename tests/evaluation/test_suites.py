import pytest

from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS
from multierase.evaluation.suites import load_suite, shipped_suites

CSV = "case_number,prompt,evaluation_seed,studio,subject\n7,a church by Noto,3,Noto,church\n8,a cat,4,,cat\n"
YAML = "prompts: own.csv\nlabels: [studio, subject]\njudge: emoji\n"


@pytest.fixture
def own(tmp_path):
    def write(table=CSV, text=YAML):
        (tmp_path / "own.csv").write_text(table)
        (tmp_path / "own.yaml").write_text(text)
        return tmp_path / "own.yaml"

    return write


@pytest.mark.parametrize("name", shipped_suites())
def test_shipped_suites_are_whole_and_their_judge_sees_what_they_ask(emoji, name):
    suite = load_suite(name)
    suite.load_judge()
    assert suite.name == name and len({case.number for case in suite.cases}) == len(suite.cases)
    for case in suite.cases:
        emoji.text.require_representable(case.prompt)
        assert all(label.lower() in case.prompt.lower() for label in case.labels.values())
    kind, classes = {"studios": ("studio", EMOJI_STUDIOS), "subjects": ("subject", EMOJI_SUBJECTS)}[name]
    assert {case.labels[kind] for case in suite.cases} == set(classes)
    assert suite.domain(classes[0]) == kind and suite.domain("Van Gogh") is None


def test_a_suite_of_ones_own_with_the_peers_columns(own):
    suite = load_suite(own())
    assert [(case.number, case.seed, dict(case.labels)) for case in suite.cases] == [
        (7, 3, {"studio": "Noto", "subject": "church"}), (8, 4, {"subject": "cat"})
    ]  # fmt: skip
    assert load_suite(own(CSV.replace("evaluation_seed", "sd_seed"))).cases == suite.cases


@pytest.mark.parametrize(
    "table, text, message",
    [
        (CSV.replace("prompt,", "promt,"), YAML, "no column \\['prompt'\\]; its columns are"),
        (CSV.replace("evaluation_seed", "seed"), YAML, "no column \\['evaluation_seed'\\]"),
        (CSV.replace(",3,", ",three,"), YAML, "line 2: case_number and evaluation_seed are whole numbers"),
        (CSV.replace("\n8", "\n7"), YAML, "line 3: case 7 is there already"),
        (CSV.split("\n")[0] + "\n", YAML, "holds no case"),
        (CSV, YAML.replace("judge: emoji", "judge: emojy"), "judge 'emojy'; give one of \\['emoji', 'clip'\\]"),
        (CSV, YAML + "label: x\n", "unknown key 'label'; did you mean 'labels'"),
        (CSV, "prompts: own.csv\n", "give at least prompts, labels and judge"),
        (CSV, "prompts: [", "is not YAML"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said_before_any_picture(own, table, text, message):
    with pytest.raises(ValueError, match=message):
        load_suite(own(table, text))


def test_a_judge_that_cannot_see_what_is_asked(own):
    with pytest.raises(ValueError, match="case 7: emoji judge.* cannot see studio 'Notto'; did you mean 'Noto'"):
        load_suite(own(CSV.replace("3,Noto", "3,Notto"))).load_judge()


def test_no_such_suite(tmp_path, own):
    with pytest.raises(FileNotFoundError, match="no suite 'stuidos'.*studios"):
        load_suite("stuidos")
    own()
    (tmp_path / "own.csv").unlink()
    with pytest.raises(FileNotFoundError, match="lies beside its YAML file"):
        load_suite(tmp_path / "own.yaml")
