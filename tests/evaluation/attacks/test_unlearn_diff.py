"""UnlearnDiffAtk: a step of its search written out, and where its tokens may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attacks_by_hand import asked, encoded, first_step, on_simplex, own_ids, renoised
from torch.nn import functional as F

from multierase.evaluation.attacks import unlearn_diff

TOKENS = 3


@pytest.fixture
def search(text):
    return unlearn_diff.Search(text, "a church", TOKENS)


def test_projection_on_the_simplex_is_the_one_by_sorting():
    rows = (
        torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-3, 1, 50)[:, None]
    )
    rows[7] = 1 / 30  # equal ones
    rows[8] = torch.tensor([0, 1] + [0] * 28)  # on it already
    rows[:, 3] = -torch.inf
    expected = np.stack([on_simplex(row) for row in rows.numpy()])
    torch.testing.assert_close(
        unlearn_diff.on_simplex(rows), torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-5
    )
    assert (unlearn_diff.on_simplex(rows)[:, 3] == 0).all()


def test_it_begins_with_every_token_of_text_alike(text, search):
    expected = text.ordinary.float() / text.ordinary.sum()
    torch.testing.assert_close(search.rows.detach(), expected.repeat(TOKENS, 1))


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad])
def test_a_step_by_hand(model, target, text, search, around):
    """Straight through: the gradient of the drawn tokens' one-hot rows moves the rows."""
    x_0, t = target.of_base(["a church"], [0]), torch.tensor([300])
    before = search.rows.detach().clone()
    with around():
        loss = search.step(target, x_0, t, torch.Generator().manual_seed(1))

    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(x_0.shape, generator=generator)
    drawn = torch.multinomial(before, 1, generator=generator)[:, 0]
    table = model.pipeline.text_encoder.get_input_embeddings().weight
    vectors = table[drawn].clone().requires_grad_()
    tokens = encoded(model.pipeline, [*vectors, *own_ids(model.pipeline, "a church")])
    x_t = renoised(model.pipeline, x_0, noise, t)
    eps = model.pipeline.unet(x_t, t, encoder_hidden_states=tokens).sample
    expected = F.mse_loss(eps, noise)
    (gradient,) = torch.autograd.grad(expected, [vectors])
    assert loss == pytest.approx(expected.item(), rel=1e-5)

    rows = first_step(before, (gradient @ table.T).clamp(-1, 1), 0.01, l2=0.1)
    rows[:, model.pipeline.tokenizer.all_special_ids] = -torch.inf
    projected = np.stack([on_simplex(row) for row in rows.numpy()])
    torch.testing.assert_close(
        search.rows.detach(), torch.from_numpy(projected).float(), atol=1e-5, rtol=1e-3
    )
    assert not torch.allclose(search.rows.detach(), before, atol=1e-3)


def test_a_steep_gradient_is_cut_at_one():
    rows = torch.zeros(2, 3, requires_grad=True)
    drawn = torch.eye(3)[:2]
    straight = unlearn_diff._Straight.apply(rows, drawn)
    assert torch.equal(straight, drawn)
    (straight * torch.tensor([5.0, -0.5, -7.0])).sum().backward()
    assert rows.grad.tolist() == [[1, -0.5, -1]] * 2


def test_begin_end_and_padding_are_never_chosen(model, target, text, search):
    special = model.pipeline.tokenizer.all_special_ids
    x_0 = target.of_base(["a church"], [0])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        search.rows[:, special] = 0.9  # whatever drives them up, they do not stay
    search.step(target, x_0, torch.tensor([500]), generator)
    for number in range(3):
        assert (search.rows[:, special] == 0).all()
        torch.testing.assert_close(search.rows.sum(dim=1), torch.ones(TOKENS))
        assert text.ordinary[search.attempt().ids[:TOKENS]].all()
        search.step(target, x_0, torch.tensor([100 * number]), generator)


def test_an_attempt_takes_every_rows_most_likely_token(model, search):
    with torch.no_grad():
        for row, index in enumerate((17, 5, 17)):
            search.rows[row, index] = 0.5
    attempt = search.attempt()
    expected = [17, 5, 17, *own_ids(model.pipeline, "a church")]
    assert list(attempt.ids) == expected
    assert attempt.prompt == model.pipeline.tokenizer.decode(expected).strip()
    torch.testing.assert_close(attempt.conditioning["tokens"], encoded(model.pipeline, expected))


def test_a_prompt_is_cut_where_tokens_leave_no_room(model, text):
    search = unlearn_diff.Search(text, "a cat " * 20, TOKENS)
    assert len(search.attempt().ids) == text.most
    assert len(unlearn_diff.Search(text, "a cat", 99).attempt().ids) == text.most
    nothing = unlearn_diff.Search(text, "", TOKENS)
    assert len(nothing.attempt().ids) == TOKENS


def test_times_are_the_published_ones_and_the_search_goes_on(target, aim, cases, monkeypatch):
    seen = []

    def step(self, target, x_0, t, generator):
        seen.append((self, int(t)))

    monkeypatch.setattr(unlearn_diff.Search, "step", step)
    attack = unlearn_diff.begin(target, aim(attempts=50, steps=2))
    assert len(list(attack(cases[0]))) == 50
    assert [t for _, t in seen] == [t for t in range(10, 1000, 20) for _ in range(2)]
    assert len({id(search) for search, _ in seen}) == 1


def test_it_asks_with_what_it_is_told_and_aims_at_the_bases_picture(
    model, target, aim, cases, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        unlearn_diff.Search, "step", lambda self, target, x_0, t, generator: seen.append(x_0)
    )
    asked_instead = {case.number: "a cat" for case in cases}
    (attempt,) = unlearn_diff.begin(target, aim(asked=asked_instead))(cases[0])
    assert list(attempt.ids)[TOKENS:] == own_ids(model.pipeline, "a cat")
    assert torch.equal(seen[0], target.of_base([cases[0].prompt], [cases[0].seed]))
    assert not torch.allclose(attempt.conditioning["tokens"], asked(model.pipeline, "a cat"))
