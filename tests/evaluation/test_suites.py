from collections import Counter

import pytest

from multierase.emoji import STUDIOS, SUBJECTS
from multierase.errors import MultieraseError, PromptFileError, SuiteError, UsageError
from multierase.evaluation.experiment import Experiment
from multierase.evaluation.instruments import load_judge
from multierase.evaluation.suites import default_suite, load_suite, shipped_suites, suite_of
from multierase.models.sources import EMBEDDED

CSV = (
    "case_number,prompt,evaluation_seed,studio,subject\n"
    "7,a church by Noto,3,Noto,church\n"
    "8,a cat,4,,cat\n"
)
YAML = "prompts: own.csv\nlabels: [studio, subject]\njudge: emoji\n"
TEMPLATE = "template: 'a {b}'\nlabels: {b: [c]}\njudge: emoji\n"


@pytest.fixture
def own(tmp_path):
    def write(table=CSV, text=YAML):
        (tmp_path / "own.csv").write_text(table)
        (tmp_path / "own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / "own.yaml"

    return write


@pytest.mark.parametrize(
    ("name", "kind", "classes"), [("studios", "studio", STUDIOS), ("subjects", "subject", SUBJECTS)]
)
def test_the_embedded_bases_suites_are_whole_and_their_judge_sees_them(emoji, name, kind, classes):
    suite = load_suite(name)
    load_judge(suite)
    assert suite.name == name
    assert len(suite.labels) == len(suite.cases)

    for case in suite.cases:
        emoji.require_representable(case.prompt)
        assert all(label.lower() in case.prompt.lower() for label in case.labels.values())

    assert {case.labels[kind] for case in suite.cases} == set(classes)
    assert suite.domain(classes[0]) == kind
    assert suite.domain("Van Gogh") is None


def test_imagenette_is_the_papers():
    suite = load_suite("imagenette")
    assert len(suite.cases) == 5000 == len(suite.labels)
    asked = Counter(case.labels["class"] for case in suite.cases)
    assert asked == dict.fromkeys(suite.classes()["class"], 500)

    case = suite.cases[1003]
    assert (case.number, case.prompt, case.seed) == (1003, "an image of a church", 3)
    assert case.labels == {"class": "church"}
    assert suite.cases == load_suite("imagenette").cases


def test_every_typeface_has_two_glyphs_in_two_kinds_of_sentence():
    """A glyph has the same noise whatever it is set in; the judge sees all that is asked for."""
    suite = load_suite("typefaces")
    judge = load_judge(suite)
    asked: dict[str, list] = {}
    seeds: dict[str, set[int]] = {}
    for case in suite.cases:
        asked.setdefault(case.labels["typeface"], []).append(case)
        seeds.setdefault(case.labels["glyph"], set()).add(case.seed)
        assert case.labels["typeface"] in case.prompt
        assert case.labels["glyph"] in case.prompt

    assert set(asked) == set(judge.classes["typeface"])
    assert {len(cases) for cases in asked.values()} == {2}
    for one, other in asked.values():
        assert one.labels["glyph"] != other.labels["glyph"]
    assert {len(found) for found in seeds.values()} == {1}
    assert set(seeds) == set(judge.classes["glyph"])


def test_artists_are_asked_for_in_every_form():
    suite = load_suite("artists")
    assert len(suite.cases) == 10 * 5 * 10
    assert len({case.prompt for case in suite.cases}) == 50
    assert all(case.labels["artist"] in case.prompt for case in suite.cases)

    papers = {"Van Gogh", "Pablo Picasso", "Rembrandt", "Andy Warhol", "Caravaggio"}
    assert papers < set(suite.classes()["artist"])


def test_unlearncanvas_is_every_style_with_every_object_at_its_seeds():
    suite = load_suite("unlearncanvas")
    assert len(suite.cases) == 60 * 20 * 5
    assert {case.seed for case in suite.cases} == {188, 288, 588, 688, 888}
    assert "A Dogs image in Van Gogh style." in {case.prompt for case in suite.cases}


@pytest.mark.parametrize(
    ("name", "what"), [("i2p", r"i2p_benchmark\.csv .*AIML-TUDA/i2p"), ("coco", r"coco_30k\.csv")]
)
def test_what_cannot_be_shipped_is_asked_for(name, what):
    with pytest.raises(FileNotFoundError, match=f"suite '{name}': .*--prompts FILE: {what}"):
        load_suite(name)


def test_the_peers_files_are_read_as_they_are(tmp_path):
    """Their columns; the prompts here are harmless."""
    (tmp_path / "i2p_benchmark.csv").write_text(
        "prompt,categories,hard,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model\n"
        '"a lake, at dawn",shocking,0,1719792,7,512,512,\n'
        '"say ""cheese""\nand smile",hate,1,2531,7,512,512,\n'
    )
    i2p = load_suite("i2p", prompts=tmp_path / "i2p_benchmark.csv")
    assert [(case.number, case.prompt, case.seed, dict(case.labels)) for case in i2p.cases] == [
        (0, "a lake, at dawn", 1719792, {"nudity": "nudity"}),
        (1, 'say "cheese"\nand smile', 2531, {"nudity": "nudity"}),
    ]
    assert i2p.domain("nudity") == "nudity"
    assert i2p.thumbnails == 0
    assert load_judge(i2p).threshold == 0.6

    (tmp_path / "coco_30k.csv").write_text(
        ",case_number,source,prompt,evaluation_seed,coco_id\n"
        "0,0,coco2014,A man on a bike.,4916,1\n1,7,coco2014,Two dogs.,4775,2\n"
    )
    coco = load_suite("coco", prompts=tmp_path / "coco_30k.csv")
    found = [(case.number, case.prompt, case.seed, case.labels) for case in coco.cases]
    assert found == [(0, "A man on a bike.", 4916, {}), (7, "Two dogs.", 4775, {})]

    (tmp_path / "big_artist_prompts.csv").write_text(
        ",case_number,prompt,evaluation_seed,artist\n"
        "0,0,A vase in the style of Van Gogh,3800,Van Gogh\n"
    )
    artists = load_suite("artists", prompts=tmp_path / "big_artist_prompts.csv")
    assert [dict(case.labels) for case in artists.cases] == [{"artist": "Van Gogh"}]


def test_an_experiment_replaces_the_suites_settings(own):
    experiment = Experiment(
        str(own()), clip="/c", inference_steps=7, guidance_scale=2.0, thumbnails=1, batch_size=3
    )
    suite = suite_of(experiment)
    assert (suite.clip, suite.thumbnails, suite.cases) == ("/c", 1, load_suite(own()).cases)
    sampling = suite.sampling
    assert (sampling.inference_steps, sampling.guidance_scale, sampling.batch_size) == (7, 2.0, 3)

    plain = suite_of(Experiment("imagenette"))
    assert (plain.sampling.inference_steps, plain.sampling.guidance_scale) == (50, 7.5)


def test_options_of_the_judge_replace_the_suites():
    artists = load_suite("artists", judge={"model": "/a"})
    assert artists.judge == {**load_suite("artists").judge, "model": "/a"}
    other = {"name": "clip", "model": "/a"}
    assert load_suite("imagenette", judge=other).judge == other
    typed = load_suite("imagenette", judge={"name": "nudenet", "threshold": "0.7"})
    assert typed.judge["threshold"] == 0.7  # as a command line gives it


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modle": "/a"}, "takes no 'modle'; did you mean 'model'"),
        ({"name": "clipp"}, "judge 'clipp'; did you mean 'clip'"),
        ({"name": "classifier"}, r"judge 'classifier' needs \['class'\].*--judge.class FOLDER"),
        ({"threshold": 0.5}, "judge 'imagenet' takes no 'threshold'"),
        ({"name": "nudenet", "threshold": "much"}, "threshold is 'much'; give a number"),
        ({"model": 3}, "model is 3; give text"),
    ],
)
def test_options_that_a_judge_does_not_take(given, message):
    with pytest.raises(SuiteError, match=message):
        load_suite("imagenette", judge=given)


@pytest.mark.parametrize("base", EMBEDDED)
def test_an_embedded_base_is_judged_by_a_suite_of_its_own(base):
    assert load_suite(default_suite(base)).judge == {"name": base}
    assert default_suite("somebody/model") == default_suite("emoji")


def test_concepts_that_no_case_asks_for(tmp_path):
    suite = load_suite("studios")
    suite.require_asked(["nudity", "noto"])
    suite.require_asked([])
    with pytest.raises(UsageError, match=r"asks for none of \['Notto'\]; did you mean 'Noto'"):
        suite.require_asked(["Notto"])

    suite.require_asked(["Noto", "bus"], every=True)
    with pytest.raises(UsageError, match=r"asks for none of \['noto', 'nudity'\]"):
        suite.require_asked(["Twemoji", "nudity", "noto"], every=True)

    (tmp_path / "coco.csv").write_text("prompt,evaluation_seed\na,0\n")
    coco = load_suite("coco", prompts=tmp_path / "coco.csv")
    coco.require_asked(["nudity"], every=True)  # it asks for nothing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML.replace("judge: emoji", "judge: emojy"), "judge 'emojy'; did you mean 'emoji'"),
        (YAML.replace("judge: emoji", "judge: clip"), "judge 'clip' needs \\['model'\\]"),
        (YAML.replace("judge: emoji", "judge: [emoji]"), "judge is \\['emoji'\\]; give a judge"),
        (
            YAML.replace("judge: emoji", "judge: {name: [emoji]}"),
            "judge \\['emoji'\\].*; give one of",
        ),
        (YAML + "template: x\n", "give one of prompts, a CSV beside it; template"),
        (TEMPLATE.replace("{b: [c]}", "[b]"), "needs labels with a list of classes"),
        (TEMPLATE.replace("a {b}", "a b"), "template 'a b' has no {b}"),
        (TEMPLATE.replace("'a {b}'", "[1]"), "template \\[1\\]; give a sentence"),
        (TEMPLATE + "seeds: 0\n", "seeds 0; give how many"),
        (TEMPLATE + "seeds: [1, x]\n", "seeds \\[1, 'x'\\]; give how many"),
        (TEMPLATE + "seeds: 1000000000000\n", "pictures, at most 1000000 can be judged"),
        (TEMPLATE.replace("[c]", "[c, 1]"), "names that YAML reads as numbers .* in quotes"),
        (TEMPLATE.replace("[c]", "[yes]"), "names that YAML reads as numbers or truth values"),
        (YAML.replace("[studio, subject]", "[studio, studio]"), "list of kinds, each once"),
        (YAML.replace("[studio, subject]", "studio"), "labels is 'studio'; give a list of kinds"),
        (YAML + "label: x\n", "unknown key 'label'; did you mean 'labels'"),
        (YAML + "3: x\n", "unknown key '3'"),
        (YAML + "inference_steps: x\n", "inference_steps is 'x'; give a number of steps"),
        (YAML + "inference_steps: yes\n", "inference_steps is True; give a number of steps"),
        (YAML + "inference_steps: 0\n", "suite .*inference_steps"),
        (YAML + "guidance_scale: .nan\n", "guidance_scale is a finite number"),
        (YAML + "guidance_scale: [3]\n", "guidance_scale is \\[3\\]; give a number"),
        (YAML + "thumbnails: -1\n", "thumbnails 0 or more"),
        (YAML + "clip: {a: b}\n", "clip is .*; give a folder or hub id"),
        (YAML + "name: 3\n", "name is 3; give a name"),
        ("prompts: own.csv\n", "give at least labels and judge"),
        ("- a\n- b\n", "give at least labels and judge"),
        ("prompts: [", "is not YAML"),
        ("a: 2020-99-99\n", "is not YAML"),
        ("[" * 20_000, "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"name: \x1b[31m\n", "is not YAML"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said_before_any_picture(own, text, message):
    with pytest.raises(SuiteError, match=message):
        load_suite(own(text=text))


def test_a_message_does_not_grow_with_what_is_wrong(own):
    """Each list names the one before it ten times: written out, 10^12 words."""
    kinds = ["k0: &a0 [x, x]"]
    for depth in range(1, 12):
        kinds.append(f"k{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 10)}]")
    text = f"prompts: own.csv\nlabels: {{{', '.join(kinds)}}}\njudge: emoji\n"

    with pytest.raises(SuiteError, match="give a list of kinds") as caught:
        load_suite(own(text=text))
    assert len(str(caught.value)) < 1000


def test_a_table_that_cannot_be_read(own):
    with pytest.raises(PromptFileError, match="no column \\['prompt'\\]"):
        load_suite(own(table=CSV.replace("prompt,", "promt,")))


def test_a_judge_that_cannot_see_what_is_asked(own):
    suite = load_suite(own(CSV.replace("3,Noto", "3,Notto")))
    message = "case 7: emoji judge.* cannot see studio 'Notto'; did you mean 'Noto'"
    with pytest.raises(SuiteError, match=message):
        load_judge(suite)


def test_no_such_suite(tmp_path, own):
    with pytest.raises(FileNotFoundError, match="no suite 'stuidos'.*studios"):
        load_suite("stuidos")
    own()
    (tmp_path / "own.csv").unlink()
    with pytest.raises(FileNotFoundError, match="lies beside its YAML file"):
        load_suite(tmp_path / "own.yaml")


def test_every_error_of_a_suite_is_one_of_ours():
    assert issubclass(SuiteError, MultieraseError)
    assert "studios" in shipped_suites()
