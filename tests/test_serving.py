"""Serving: the pictures of ``Composer.set`` and ``generate``, many sets in one batch.

Pictures are in [0, 1]. Those of one batch agree with those made alone to 1e-4, as any two batches
of one model do.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from compositions import assert_bits, increments_of, random_increment, snapshot, twin_of
from families import tiny_model

from multierase import Composer, Library, Request, SamplingSettings, Server, Workspace, serving
from multierase import composer as composing
from multierase.errors import IncrementFileError, ModelChanged, ModelHeld, UnknownConcept
from multierase.generate import generate
from multierase.increments.value import Factors, gram_factor
from multierase.models.loading import DTYPES
from multierase.separation.fitting import Fitting

SETTINGS = SamplingSettings(inference_steps=2)
PROMPTS = ("a church by Noto", "a cat", "", "Noto")
SETS = ({"a": 1.0, "b": 0.5}, {}, {"c": -1.0}, {"a": 1.0, "b": 0.5, "c": 2.0})
REQUESTS = tuple(
    Request(prompt, seed, erased)
    for seed, (prompt, erased) in enumerate(zip(PROMPTS, SETS, strict=True))
)


def readers_of(model):
    """Three increments of all that reads the text: factors, dense, and factors again."""
    increments = {}
    for seed, name in enumerate("abc"):
        made = random_increment(model, name, model.exact_scope, seed, factored=name != "b")
        grams = {}
        for stream in set(made.readers.values()):
            width = model.tokens([""], stream).shape[1]
            generator = torch.Generator().manual_seed(seed)
            grams[stream] = gram_factor(torch.randn(6, width, generator=generator))
        increments[name] = replace((made * 4.0).named(name), grams=grams)

    return increments


def one_by_one(composer, requests, settings=SETTINGS):
    """Answer requests as without a server."""
    before, pictures = dict(composer.erased), []
    for request in requests:
        composer.set(request.erased)
        pictures.append(generate(composer.model, [request.prompt], [request.seed], settings))
    composer.set(before)

    return torch.cat(pictures)


def assert_same_pictures(given, expected):
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)


def hooks_of(model):
    """Every hook on the model's layers."""
    return [
        hook
        for component in model.components.values()
        for module in component.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]


@contextlib.contextmanager
def nothing_changes(composer):
    """What is erased, the weights and the hooks must be the same after a block."""
    erased, weights = dict(composer.erased), snapshot(composer.model)
    hooks = hooks_of(composer.model)
    yield
    assert composer.erased == erased
    assert_bits(composer.model, weights)
    assert hooks_of(composer.model) == hooks


@pytest.fixture
def composer(tiny):
    return Composer(tiny, readers_of(tiny))


# The pictures.


@pytest.fixture(scope="module")
def emoji_increments(emoji):
    return readers_of(emoji)


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
@pytest.mark.parametrize("solve", ["sum", "joint"])
def test_each_picture_is_the_one_of_its_set_alone(emoji, emoji_increments, solve, guidance_scale):
    settings = SamplingSettings(inference_steps=4, guidance_scale=guidance_scale)
    composer = Composer(emoji, emoji_increments, solve=solve)
    with nothing_changes(composer):
        pictures = Server(composer).generate(REQUESTS, settings)
    assert pictures.shape == (4, 3, 64, 64)
    assert pictures.dtype == torch.float32
    assert_same_pictures(pictures, one_by_one(composer, REQUESTS, settings))

    plain = generate(emoji, PROMPTS, range(4), settings)
    apart = (pictures - plain).abs().amax((1, 2, 3))
    assert [value > 0.01 for value in apart] == [True, False, True, True]


@pytest.mark.parametrize("solve", ["sum", "joint"])
@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "flux2-klein"])
def test_every_family_gives_each_request_its_own_set(tokenizer, family, solve):
    """Some pipelines ask for the empty prompt beside the prompts, some in turn, some never."""
    model = tiny_model(family, tokenizer)
    composer = Composer(model, readers_of(model), solve=solve)
    versions = {name: parameter._version for name, parameter in model.parameters().items()}
    with nothing_changes(composer):
        pictures = Server(composer).generate(REQUESTS, SETTINGS)
    assert {name: p._version for name, p in model.parameters().items()} == versions

    assert_same_pictures(pictures, one_by_one(composer, REQUESTS))
    plain = generate(model, PROMPTS, range(4), SETTINGS)
    apart = (pictures - plain).abs().amax((1, 2, 3))
    assert apart[1] < 1e-4
    assert min(apart[0], apart[2], apart[3]) > 1e-3


def test_no_weight_is_written_for_sets_of_readers_nor_for_one_set_for_all(tiny, composer):
    versions = {name: parameter._version for name, parameter in tiny.parameters().items()}
    server, same = Server(composer), [replace(one, erased={"a": 1.0}) for one in REQUESTS]
    server.generate(REQUESTS, SETTINGS)
    pictures = server.generate(same, SETTINGS)
    assert {name: p._version for name, p in tiny.parameters().items()} == versions
    assert_same_pictures(pictures, one_by_one(composer, same))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_adds_each_samples_change_in_float32(tiny, monkeypatch, dtype):
    """Against numpy, for texts in two halves, in turn, and tokens without a place."""
    increments = readers_of(tiny)
    tiny.pipeline.unet.to(DTYPES[dtype])
    composer = Composer(tiny, increments)
    name = sorted(tiny.readers)[0]
    layer, requests = tiny.module_of(name), REQUESTS[:2] + REQUESTS[3:]
    texts = [torch.randn(shape).to(tiny.dtype) for shape in ((3, 5, 32), (6, 5, 32), (3, 32))]
    said = []

    def asked(model, prompts, seeds, settings):
        for other in sorted(tiny.readers):  # all of them are asked
            tiny.module_of(other)(texts[0])
        said.extend(layer(text) for text in (*texts, *texts))
        return torch.zeros(len(prompts), 3, 1, 1)

    monkeypatch.setattr(serving, "generate", asked)
    Server(composer).generate(requests)

    weight = tiny.parameters()[name].detach().double().numpy()
    for text, output in zip(texts * 2, said, strict=True):
        whole = text.double().numpy()
        expected = whole @ weight.T
        for row in range(len(whole)):
            for concept, strength in requests[row % 3].erased.items():
                delta = increments[concept].dense(name).double().numpy()
                expected[row] += strength * whole[row] @ delta.T
        precision = torch.finfo(tiny.dtype).eps
        np.testing.assert_allclose(
            output.double().numpy(), expected, atol=8 * precision, rtol=8 * precision
        )


def test_a_picture_depends_neither_on_its_batch_nor_on_the_order(composer):
    server, five = Server(composer), [*REQUESTS, REQUESTS[0]]
    whole = server.generate(five, SETTINGS)
    assert_same_pictures(whole[0], whole[4])
    for size in (1, 2, 3):
        settings = replace(SETTINGS, batch_size=size)
        assert_same_pictures(server.generate(five, settings), whole)
    assert_same_pictures(server.generate(five[::-1], SETTINGS), whole.flip(0))
    assert torch.equal(server.generate(five, SETTINGS), whole)


def test_names_alone_are_strengths_of_one_and_zero_is_not_erased(composer):
    server = Server(composer)
    given = [Request("a cat", 0, ["b", "a"]), Request("a cat", 0, {"a": 0.0})]
    plain = [Request("a cat", 0, {"a": 1.0, "b": 1.0}), Request("a cat", 0)]
    assert given == plain
    assert torch.equal(server.generate(given, SETTINGS), server.generate(plain, SETTINGS))


def test_what_acts_on_the_guidance_acts_on_each_request(tiny, composer):
    """Such hooks ask the denoiser for half of a batch, with other texts at each step."""

    def adjust(null, asked, predict, first):
        return asked + 0.5 * (predict("Noto") - null)

    for changed in (tiny.unconditional("a dog"), tiny.adjusted(adjust)):
        with changed:
            pictures = Server(composer).generate(REQUESTS, SETTINGS)
            assert_same_pictures(pictures, one_by_one(composer, REQUESTS))


# Sets that change other layers.


def mixed(model):
    """Requests for sets of readers alone, and for sets that change other layers too."""
    scopes = ({"dali": 1.0}, {"monet": 1.0}, {}, {"nudity": 1.0, "dali": 0.5}, {"van gogh": 2.0})
    sets = [*scopes, {"monet": 1.0}]

    return [Request(PROMPTS[i % 4], i, erased) for i, erased in enumerate(sets)]


@pytest.mark.parametrize("solve", ["sum", "joint"])
def test_other_sets_are_composed_in_turn_and_what_was_erased_comes_back(tiny, solve, monkeypatch):
    composer = Composer(tiny, increments_of(tiny), solve=solve)
    composer.erase("van gogh", strength=0.5)
    requests = mixed(tiny)
    expected = one_by_one(composer, requests)

    sizes = []
    monkeypatch.setattr(
        serving, "generate", lambda *given: sizes.append(len(given[1])) or generate(*given)
    )
    with nothing_changes(composer):
        pictures = Server(composer).generate(requests, SETTINGS)
    assert_same_pictures(pictures, expected)
    assert sizes == [3, 2, 1]  # all that read the text, Monet twice, and nudity


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_no_hook_and_what_was_erased(tiny, monkeypatch, failing, error):
    composer = Composer(tiny, increments_of(tiny))
    composer.erase("monet")
    calls = itertools.count(1)

    def fails(*given):
        if next(calls) == failing:
            raise error("halfway")
        return generate(*given)

    monkeypatch.setattr(serving, "generate", fails)
    with nothing_changes(composer), pytest.raises(error, match="halfway"):
        Server(composer).generate(mixed(tiny), SETTINGS)


# What is refused changes nothing, and no picture is made.


@pytest.fixture
def no_pictures(monkeypatch):
    def made(*given):
        raise AssertionError("a picture was made")

    monkeypatch.setattr(serving, "generate", made)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("before", [{}, {"a": 1.0}])
@pytest.mark.parametrize(
    ("erased", "error", "message"),
    [
        (["A"], UnknownConcept, "no increment for 'A'; did you mean 'a'"),
        ({"a": math.nan}, ValueError, "strengths must be finite numbers, given {'a': nan}"),
        ({"a": math.inf}, ValueError, "strengths must be finite"),
        (["foreign"], IncrementFileError, "made for another base"),
    ],
)
def test_a_bad_request_is_told_before_any_picture(composer, before, erased, error, message):
    other = twin_of(composer.model)
    for parameter in other.parameters().values():
        parameter.mul_(1.1)
    foreign = random_increment(other, "foreign", other.exact_scope, 1)
    composer = Composer(composer.model, {**composer.increments, "foreign": foreign})
    composer.set(before)
    with nothing_changes(composer), pytest.raises(error, match=message):
        Server(composer).generate([*REQUESTS, Request("a cat", 0, erased)])


@pytest.mark.usefixtures("no_pictures")
def test_no_request_and_one_string_are_refused(composer):
    with pytest.raises(ValueError, match="there are no requests: give one or more"):
        Server(composer).generate([])
    with pytest.raises(ValueError, match="erased is 'Noto': give a list of concepts, or"):
        Request("a cat", 0, "Noto")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("requests", [REQUESTS, [Request("a cat")]])
def test_a_model_that_another_composer_holds_is_refused(tiny, composer, requests):
    other = Composer(tiny, composer.increments)
    other.erase("a")
    with nothing_changes(other), pytest.raises(ModelHeld, match="by another composer"):
        Server(composer).generate(requests)
    assert composer.erased == {}
    other.close()


@pytest.mark.usefixtures("no_pictures")
def test_a_base_that_somebody_has_changed_is_noticed(tiny, composer):
    """As ``set`` does: another base while nothing is erased, foreign values otherwise."""
    server, name = Server(composer), sorted(tiny.readers)[0]
    composer.erase("a")
    tiny.parameters()[name].detach().mul_(2)
    with pytest.raises(ModelChanged, match="other values than were composed"):
        server.generate(REQUESTS)
    composer.close()
    with pytest.raises(IncrementFileError, match="made for another base"):
        server.generate(REQUESTS)


def test_a_plan_for_another_base_is_forgotten(tiny, composer):
    server, name = Server(composer), sorted(tiny.readers)[0]
    server.generate(REQUESTS, SETTINGS)
    tiny.parameters()[name].detach().mul_(2)
    with pytest.raises(IncrementFileError, match="made for another base"):
        server.generate(REQUESTS, SETTINGS)


@pytest.mark.parametrize(("concept", "strength"), [("a", 1e39), ("b", -1e39), ("c", 1e38)])
def test_strengths_that_would_not_be_finite_are_refused(composer, concept, strength):
    with (
        nothing_changes(composer),
        pytest.raises(ValueError, match=r"make unet.* infinite in torch.float32: give smaller"),
    ):
        Server(composer).generate([*REQUESTS, Request("a cat", 0, {concept: strength})])


def test_a_pipeline_that_goes_past_the_layers_is_refused(tiny, composer):
    """Fused projections are copies: a set would be erased in none of the pictures."""
    tiny.pipeline.fuse_qkv_projections(vae=False)
    hooks = hooks_of(tiny)
    with pytest.raises(ModelChanged, match="projections may be fused"):
        Server(composer).generate(REQUESTS, SETTINGS)
    assert hooks_of(tiny) == hooks


# What is solved once.


def test_a_set_that_comes_again_is_not_solved_again(tiny, monkeypatch):
    increments, solved = readers_of(tiny), []
    composer = Composer(tiny, increments, solve="joint")
    own = Fitting.transfers

    def transfers(fitting, active, *given, **options):
        solved.append("".join(active))
        return own(fitting, active, *given, **options)

    monkeypatch.setattr(Fitting, "transfers", transfers)
    monkeypatch.setattr(composing, "MOST_SOLVED", 2)
    requests = [Request("a cat", 0, {"a": strength, "b": 1.0}) for strength in (1.0, 0.5)]
    first = Server(composer).generate(requests, SETTINGS)
    assert solved == ["ab"]  # whatever the strengths
    composer.set({"a": -1.0, "b": 1.0})
    for names in ("c", "ab", "a", "c"):  # two sets are remembered
        composer.set(dict.fromkeys(names, 1.0))
    assert solved == ["ab", "c", "a", "c"]

    composer.restore_all()
    increments["d"] = increments["a"].named("d")  # which is kept from now on
    again = Server(composer).generate(requests, SETTINGS)
    assert solved == ["ab", "c", "a", "c", "ab"]
    assert (first - again).abs().max() > 1e-3


def test_a_workspace_serves_what_it_has_by_now(tiny, tmp_path):
    library = Library(tmp_path, create=True)
    workspace = Workspace(library, base=tiny, solve="sum")
    server, increments = Server(workspace), readers_of(tiny)
    for name in ("a", "b"):
        library.save(increments[name])
        workspace._forget()  # as training does
        requests = [Request("a cat", 1, [name]), Request("a cat", 1)]
        expected = one_by_one(workspace.composer, requests)
        assert_same_pictures(server.generate(requests, SETTINGS), expected)


# Threads.


def test_threads_get_the_pictures_that_they_ask_for(composer):
    server, orders = Server(composer), [REQUESTS, REQUESTS[::-1], [REQUESTS[2]]]
    expected = [one_by_one(composer, requests) for requests in orders]
    got = {}

    def ask(place):
        for _ in range(2):
            got[place] = server.generate(orders[place], SETTINGS)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, pictures in enumerate(expected):
        assert_same_pictures(got[place], pictures)


def test_whoever_composes_meanwhile_waits_or_is_refused(tiny, composer, monkeypatch):
    other = Composer(tiny, composer.increments)
    late = threading.Thread(target=composer.erase, args=("a",))

    def meanwhile(*given):
        late.start()
        late.join(0.05)
        assert late.is_alive()
        with pytest.raises(ModelHeld):
            other.erase("b")
        return generate(*given)

    monkeypatch.setattr(serving, "generate", meanwhile)
    pictures = Server(composer).generate(REQUESTS, SETTINGS)
    late.join()
    assert composer.erased == {"a": 1.0}
    assert_same_pictures(pictures, one_by_one(composer, REQUESTS))


# The value.


def test_a_request_is_a_value():
    strengths = {"b": 1.0, "a": 2.0}
    request = Request("a cat", 3, strengths)
    strengths["c"] = 1.0
    assert request == Request("a cat", 3, {"a": 2, "b": 1}) != Request("a cat", 3)
    assert hash(request) == hash(Request("a cat", 3, {"a": 2, "b": 1}))
    assert list(request.erased) == ["a", "b"]
    assert pickle.loads(pickle.dumps(request)) == request
    with pytest.raises(AttributeError):
        request.seed = 4


def test_factors_are_stacked_and_never_made_dense(composer, monkeypatch):
    def made(self):
        raise AssertionError("a dense Δ")

    monkeypatch.setattr(Factors, "dense", made)
    monkeypatch.setattr(serving.Changes, "added", made)
    Server(composer).generate([Request("a cat", 0, {"a": 1.0, "c": 0.5})], SETTINGS)
