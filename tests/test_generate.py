import pytest
import torch
from PIL import Image

from multierase.generate import SamplingSettings, contact_sheet, encode, generate, save_picture


def test_a_picture_depends_on_its_own_prompt_and_seed_alone(emoji):
    settings = SamplingSettings(inference_steps=3)
    together = generate(emoji, ["a church by Noto", "a cat", "Noto"], [5, 6, 7], settings)
    alone = generate(emoji, ["a cat"], [6], settings)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)
    again = generate(emoji, ["a church by Noto", "a cat", "Noto"], [5, 6, 7], settings)
    assert torch.equal(together, again)


def test_it_is_what_plain_diffusers_makes(emoji):
    ours = generate(emoji, ["a church by Noto"], [3], SamplingSettings(inference_steps=4, guidance_scale=3.0))
    theirs = emoji.pipeline(
        "a church by Noto", num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_prompts_encoded_before_give_the_same_bits(emoji, guidance_scale):
    settings = SamplingSettings(inference_steps=2, guidance_scale=guidance_scale, batch_size=2)
    prompts = ["a church by Noto", "a cat"]
    encoded = encode(emoji, prompts, settings)
    assert torch.equal(
        generate(emoji, prompts, [5, 6], settings, encoded=encoded), generate(emoji, prompts, [5, 6], settings)
    )


def test_empty_prompt_is_a_prompt(emoji):
    assert generate(emoji, [""], [0], SamplingSettings(inference_steps=2)).shape == (1, 3, 64, 64)


def test_prompts_and_seeds_must_match(emoji):
    with pytest.raises(ValueError, match="2 prompts and 1 seeds"):
        generate(emoji, ["a", "b"], [0])


def test_contact_sheet_places_pictures_row_by_row():
    images = torch.stack([torch.full((3, 64, 64), value) for value in (0.0, 0.25, 0.5, 0.75)])
    sheet = contact_sheet(images, 2)
    centres = [sheet.getpixel((x, y))[0] for y in (64, 196) for x in (64, 196)]
    assert centres == [0, 64, 128, 191]


def test_pictures_are_written_whole_or_refused(tmp_path):
    picture = Image.new("RGB", (4, 4), "red")
    save_picture(picture, tmp_path / "new" / "x.png")
    with Image.open(tmp_path / "new" / "x.png") as written:
        assert written.size == (4, 4)
    with pytest.raises(ValueError, match=r"give a name that ends in \.png"):
        save_picture(picture, tmp_path / "x.txt")
