import pytest

from multierase.concepts import Concept, fill, read_prompts, to_keep, with_article


def test_a_concepts_prompt_is_its_name_by_default():
    assert Concept("Van Gogh").prompts == ("Van Gogh",)
    assert Concept("Van Gogh", ("Starry Night by Van Gogh",)).prompts == ("Starry Night by Van Gogh",)


def test_target_prompt_is_the_anchor_or_what_it_is_erased_from():
    assert Concept("x").target_prompt is None
    assert Concept("hat", erase_from="cowboy").target_prompt == "cowboy"
    assert Concept("hat", erase_from="cowboy", anchor="man").target_prompt == "man"


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": "  "}, {"name": "a", "prompts": ("",)}, {"name": "a", "erase_from": " "}]
)
def test_empty_concepts_are_refused(wrong):
    with pytest.raises(ValueError, match="empty"):
        Concept(**wrong)


def test_slugs_are_file_names():
    assert Concept("Fluent High Contrast").slug == "fluent-high-contrast"
    assert Concept("../../etc/passwd").slug == "etc-passwd"
    assert Concept("ピカチュウ").slug != ""


def test_prompts_from_csv_and_text(tmp_path):
    csv = tmp_path / "prompts.csv"
    csv.write_text('case_number,prompt,evaluation_seed\n0,"a church, by Noto",7\n1,a cat,8\n')
    assert [tagged.prompt for tagged in read_prompts(csv)] == ["a church, by Noto", "a cat"]
    text = tmp_path / "prompts.txt"
    text.write_text("one\n\ntwo\n")
    assert [tagged.prompt for tagged in read_prompts(text)] == ["one", "two"]


def test_what_a_prompt_list_says_of_the_concept_itself_is_not_kept(tmp_path):
    csv = tmp_path / "known.csv"
    csv.write_text(
        "prompt,studio,subject\na church by Noto,Noto,church\na church by Fluent Flat,Fluent Flat,church\nNoto,Noto,\n"
    )
    known = read_prompts(csv)
    assert to_keep(known, "noto") == ["a church by Fluent Flat"]
    assert to_keep(known, "Fluent") == ["a church by Noto", "a church by Fluent Flat", "Noto"]
    assert to_keep(known, "church") == ["Noto"]


def test_csv_without_prompts_says_which_columns_it_has(tmp_path):
    csv = tmp_path / "prompts.csv"
    csv.write_text("text,seed\na,1\n")
    with pytest.raises(ValueError, match=r"no column 'prompt'.*'seed', 'text'"):
        read_prompts(csv)
    csv.write_text("prompt\n\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(csv)


def test_templates():
    assert fill(("{a_subject} by {studio}", "{studio} {subject}"), "Noto", "elephant") == [
        "an elephant by Noto",
        "Noto elephant",
    ]
    assert with_article("grapes") == "grapes"


def test_contexts_are_one_a_prompt():
    assert Concept("x", ("a", "b")).contexts == ("", "")
    with pytest.raises(ValueError, match="2 prompts and 1 contexts"):
        Concept("x", ("a", "b"), ("c",))
