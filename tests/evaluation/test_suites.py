from collections import Counter

import pytest

from multierase.concepts import EMOJI_STUDIOS, EMOJI_SUBJECTS
from multierase.evaluation.suites import load_suite

CSV = "case_number,prompt,evaluation_seed,studio,subject\n7,a church by Noto,3,Noto,church\n8,a cat,4,,cat\n"
YAML = "prompts: own.csv\nlabels: [studio, subject]\njudge: emoji\n"


@pytest.fixture
def own(tmp_path):
    def write(table=CSV, text=YAML):
        (tmp_path / "own.csv").write_text(table)
        (tmp_path / "own.yaml").write_text(text)
        return tmp_path / "own.yaml"

    return write


@pytest.mark.parametrize("name", ["studios", "subjects"])
def test_the_embedded_bases_suites_are_whole_and_their_judge_sees_what_they_ask(emoji, name):
    suite = load_suite(name)
    suite.load_judge()
    assert suite.name == name and len({case.number for case in suite.cases}) == len(suite.cases)
    for case in suite.cases:
        emoji.text.require_representable(case.prompt)
        assert all(label.lower() in case.prompt.lower() for label in case.labels.values())
    kind, classes = {"studios": ("studio", EMOJI_STUDIOS), "subjects": ("subject", EMOJI_SUBJECTS)}[name]
    assert {case.labels[kind] for case in suite.cases} == set(classes)
    assert suite.domain(classes[0]) == kind and suite.domain("Van Gogh") is None


def test_imagenette_is_the_papers():
    suite = load_suite("imagenette")
    assert len(suite.cases) == 5000 == len({case.number for case in suite.cases})
    assert Counter(case.labels["class"] for case in suite.cases) == dict.fromkeys(suite.classes()["class"], 500)
    case = suite.cases[1003]
    assert (case.number, case.prompt, case.seed) == (1003, "an image of a church", 3)
    assert case.labels == {"class": "church"} and suite.cases == load_suite("imagenette").cases


def test_artists_are_asked_for_in_every_form():
    suite = load_suite("artists")
    assert len(suite.cases) == 10 * 5 * 10 and len({case.prompt for case in suite.cases}) == 50
    assert all(case.labels["artist"] in case.prompt for case in suite.cases)
    assert {"Van Gogh", "Pablo Picasso", "Rembrandt", "Andy Warhol", "Caravaggio"} < set(suite.classes()["artist"])


def test_unlearncanvas_is_every_style_with_every_object_at_its_seeds():
    suite = load_suite("unlearncanvas")
    assert len(suite.cases) == 60 * 20 * 5 and {case.seed for case in suite.cases} == {188, 288, 588, 688, 888}
    assert "A Dogs image in Van Gogh style." in {case.prompt for case in suite.cases}


@pytest.mark.parametrize("name, what", [("i2p", r"i2p_benchmark\.csv .*AIML-TUDA/i2p"), ("coco", r"coco_30k\.csv")])
def test_what_cannot_be_shipped_is_asked_for(name, what):
    with pytest.raises(FileNotFoundError, match=f"suite '{name}': .*--prompts FILE: {what}"):
        load_suite(name)


def test_the_peers_files_are_read_as_they_are(tmp_path):
    """Their columns; the prompts here are harmless."""
    (tmp_path / "i2p_benchmark.csv").write_text(
        "prompt,categories,hard,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model\n"
        '"a lake, at dawn",shocking,0,1719792,7,512,512,\n"say ""cheese""\nand smile",hate,1,2531,7,512,512,\n'
    )
    i2p = load_suite("i2p", prompts=tmp_path / "i2p_benchmark.csv")
    assert [(case.number, case.prompt, case.seed, dict(case.labels)) for case in i2p.cases] == [
        (0, "a lake, at dawn", 1719792, {"nudity": "nudity"}),
        (1, 'say "cheese"\nand smile', 2531, {"nudity": "nudity"}),
    ]
    assert i2p.domain("nudity") == "nudity" and i2p.thumbnails == 0 and i2p.load_judge().threshold == 0.6
    (tmp_path / "coco_30k.csv").write_text(
        ",case_number,source,prompt,evaluation_seed,coco_id\n0,0,coco2014,A man on a bike.,4916,1\n"
        "1,7,coco2014,Two dogs.,4775,2\n"
    )
    coco = load_suite("coco", prompts=tmp_path / "coco_30k.csv")
    assert [(c.number, c.prompt, c.seed, c.labels) for c in coco.cases] == [
        (0, "A man on a bike.", 4916, {}), (7, "Two dogs.", 4775, {})
    ]  # fmt: skip
    (tmp_path / "big_artist_prompts.csv").write_text(
        ",case_number,prompt,evaluation_seed,artist\n0,0,A vase in the style of Van Gogh,3800,Van Gogh\n"
    )
    artists = load_suite("artists", prompts=tmp_path / "big_artist_prompts.csv")
    assert [dict(case.labels) for case in artists.cases] == [{"artist": "Van Gogh"}]


def test_options_of_the_judge_in_place_of_the_suites():
    assert load_suite("artists", judge={"model": "/a"}).judge == {**load_suite("artists").judge, "model": "/a"}
    assert load_suite("imagenette", judge={"name": "clip", "model": "/a"}).judge == {"name": "clip", "model": "/a"}
    for given, message in (
        ({"modle": "/a"}, "takes no 'modle'; did you mean 'model'"),
        ({"name": "clipp"}, "judge 'clipp'; did you mean 'clip'"),
        ({"name": "classifier"}, r"judge 'classifier' needs \['class'\].*--judge.class FOLDER"),
        ({"threshold": 0.5}, "judge 'imagenet' takes no 'threshold'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_suite("imagenette", judge=given)


def test_concepts_that_no_case_asks_for(tmp_path):
    suite = load_suite("studios")
    suite.require_asked(["nudity", "noto"])
    suite.require_asked([])
    with pytest.raises(ValueError, match=r"asks for none of \['Notto'\]; did you mean 'Noto'"):
        suite.require_asked(["Notto"])
    suite.require_asked(["Noto", "bus"], every=True)
    with pytest.raises(ValueError, match=r"asks for none of \['noto', 'nudity'\]"):
        suite.require_asked(["Twemoji", "nudity", "noto"], every=True)
    (tmp_path / "coco.csv").write_text("prompt,evaluation_seed\na,0\n")
    load_suite("coco", prompts=tmp_path / "coco.csv").require_asked(["nudity"], every=True)


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
        (CSV, YAML.replace("judge: emoji", "judge: emojy"), "judge 'emojy'; did you mean 'emoji'.*; give one of \\["),
        (CSV, YAML.replace("judge: emoji", "judge: clip"), "judge 'clip' needs \\['model'\\].*--judge.model FOLDER"),
        (CSV, YAML + "template: x\n", "give one of prompts, a CSV beside it; template"),
        (CSV, "template: 'a {b}'\nlabels: [b]\njudge: emoji\n", "needs labels with a list of classes"),
        (CSV, "template: 'a b'\nlabels: {b: [c]}\njudge: emoji\n", "template 'a b' has no {b}"),
        (CSV, "template: 'a {b}'\nlabels: {b: [c]}\nseeds: 0\njudge: emoji\n", "seeds 0; give how many"),
        (CSV, YAML + "label: x\n", "unknown key 'label'; did you mean 'labels'"),
        (CSV, "prompts: own.csv\n", "give at least labels and judge, and prompts"),
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
