import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multierase.base import DTYPES, Fingerprint
from multierase.composer import Composer
from multierase.concepts import TaggedPrompt
from multierase.decoupling import KeepList
from multierase.increments import Factors, Increment, gram_factor, reads_text, touched_parameters
from multierase.library import IncrementFileError, UnknownConcept

CONCEPTS = ("dali", "monet", "nudity", "van gogh")


def random_increment(unet, concept, scope, seed, factored=False):
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(unet.named_parameters())
    frozen = {name: parameters[name] for name in touched_parameters(unet, scope)}
    deltas = {}
    for name, weight in frozen.items():
        if factored and weight.ndim == 2:
            up = torch.randn(weight.shape[0], 2, generator=generator)
            deltas[name] = Factors(0.01 * up, torch.randn(2, weight.shape[1], generator=generator))
        else:
            deltas[name] = 0.01 * torch.randn(weight.shape, generator=generator)
    gram = gram_factor(torch.randn(6, unet.config.cross_attention_dim, generator=generator))
    return Increment(deltas, Fingerprint.of("tiny", frozen), {"concept": concept}, gram)


def increments_of(unet):
    scopes = {"dali": "esd-x-strict", "monet": "esd-x", "nudity": "selfattn", "van gogh": "esd-x-strict"}
    return {
        name: random_increment(unet, name, scope, seed, factored=name == "van gogh")
        for seed, (name, scope) in enumerate(scopes.items())
    }


def snapshot(unet):
    return {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}


def assert_bits(unet, weights):
    different = [name for name, parameter in unet.named_parameters() if not torch.equal(parameter, weights[name])]
    assert different == []


@pytest.fixture
def composer(tiny):
    return Composer(tiny.unet, increments_of(tiny.unet))


strength = st.sampled_from([0.5, 1.0, -1.0, 2.0])
steps = st.lists(st.tuples(st.sampled_from(CONCEPTS), st.one_of(st.none(), strength)), max_size=12)


@pytest.mark.parametrize("solve", ["sum", "joint", "project"])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=steps)
def test_weights_are_a_function_of_the_set_never_of_the_history(tokenizer, dtype, solve, history):
    unet, composer, base = _shared(tokenizer, dtype, solve)
    off = {}
    for concept, value in history:
        if value is None and concept in off:
            composer.restore(concept)
            del off[concept]
        elif value is not None:
            composer.erase(concept, strength=value)
            off[concept] = value
    after = snapshot(unet)
    composer.restore_all()
    assert_bits(unet, base)  # everything off: the base, bit for bit
    Composer(unet, composer.increments, solve=solve).set(off)  # a composer without a history
    assert_bits(unet, after)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            parameter.copy_(base[name])


_MODELS = {}


def _shared(tokenizer, dtype, solve):
    """One model a dtype and solve: hypothesis calls the test many times."""
    if (dtype, solve) not in _MODELS:
        from conftest import tiny_pipeline

        unet = tiny_pipeline(tokenizer).unet.to(DTYPES[dtype])
        _MODELS[dtype, solve] = unet, Composer(unet, increments_of(unet), solve=solve), snapshot(unet)
    return _MODELS[dtype, solve]


def test_composed_weight_is_base_plus_sum_of_increments(tiny, composer):
    base = {name: weight.numpy() for name, weight in snapshot(tiny.unet).items()}
    composer.set({"dali": 1.0, "van gogh": 0.5, "monet": -2.0})
    for name, parameter in tiny.unet.named_parameters():
        expected = base[name].astype(np.float64)
        for concept, factor in composer.off.items():
            delta = composer.increments[concept].deltas.get(name)
            if delta is not None:
                dense = delta.up.numpy() @ delta.down.numpy() if isinstance(delta, Factors) else delta.numpy()
                expected = expected + factor * dense
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_taking_one_off_is_never_having_put_it_on(tiny, composer):
    composer.erase("monet")
    never = snapshot(tiny.unet)
    composer.erase("dali", "van gogh")
    composer.restore("dali", "van gogh")
    assert_bits(tiny.unet, never)


def test_a_thousand_cycles_do_not_drift(tiny, composer):
    base = snapshot(tiny.unet)
    for _ in range(1000):
        composer.erase("dali")
        composer.restore("dali")
    assert_bits(tiny.unet, base)


def test_context_manager_restores_the_state_before_even_when_nested_or_raising(tiny, composer):
    composer.erase("dali")
    before = snapshot(tiny.unet)
    with pytest.raises(RuntimeError, match="inside"), composer.erased("monet"):
        with composer.erased("dali", strength=0.5):
            assert dict(composer.off) == {"dali": 0.5, "monet": 1.0}
        assert dict(composer.off) == {"dali": 1.0, "monet": 1.0}
        raise RuntimeError("inside")
    assert dict(composer.off) == {"dali": 1.0}
    assert_bits(tiny.unet, before)


def test_untouched_weights_are_never_written(tiny, composer):
    versions = {name: parameter._version for name, parameter in tiny.unet.named_parameters()}
    composer.erase("dali")
    written = {name for name, parameter in tiny.unet.named_parameters() if parameter._version != versions[name]}
    assert written == set(composer.increments["dali"].deltas)


def test_strength_zero_is_not_erased(tiny, composer):
    base = snapshot(tiny.unet)
    composer.set({"dali": 0.0})
    assert dict(composer.off) == {}
    assert_bits(tiny.unet, base)


def test_errors_change_nothing(tiny, composer):
    composer.erase("dali")
    before = snapshot(tiny.unet)
    with pytest.raises(UnknownConcept, match="no increment for 'Monet'; did you mean 'monet'"):
        composer.erase("van gogh", "Monet")
    with pytest.raises(ValueError, match=r"cannot restore \['monet'\]: not erased; erased now: \['dali'\]"):
        composer.restore("monet")
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            composer.erase("monet", strength=wrong)
    assert dict(composer.off) == {"dali": 1.0}
    assert_bits(tiny.unet, before)


def test_an_increment_of_another_base_is_refused_even_beside_one_that_fits(tiny, tokenizer):
    from conftest import tiny_pipeline

    other = tiny_pipeline(tokenizer, seed=1).unet
    mixed = {"dali": random_increment(tiny.unet, "dali", "esd-x", 0), "x": random_increment(other, "x", "esd-x", 1)}
    composer = Composer(tiny.unet, mixed)
    composer.erase("dali")
    before = snapshot(tiny.unet)
    with pytest.raises(IncrementFileError, match="made for another base"):
        composer.erase("x")
    assert_bits(tiny.unet, before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_erased_in_float32_served_in_half(tiny, dtype):
    increment = random_increment(tiny.unet, "dali", "esd-x", 0)
    unet = tiny.unet.to(DTYPES[dtype])
    base = snapshot(unet)
    composer = Composer(unet, {"dali": increment})
    composer.erase("dali")
    name = next(iter(increment.deltas))
    assert torch.equal(
        dict(unet.named_parameters())[name], (base[name].float() + increment.dense(name)).to(DTYPES[dtype])
    )
    composer.restore_all()
    assert_bits(unet, base)


def keys_and_values(unet, weights):
    """All that reads the text, as one matrix: what it became, less what it was."""
    return torch.cat([p.detach() - weights[n] for n, p in unet.named_parameters() if reads_text(n)]).double()


def stacked(increment, names):
    return torch.cat([increment.dense(name) for name in names]).double()


@pytest.mark.parametrize("strengths", [{"dali": 1.0, "van gogh": -0.5}, {"dali": 1.0}])
def test_joint_is_the_least_squares_solution(tiny, strengths):
    """Against the stacked system, solved by lstsq: own tokens move as their increments move them, kept ones stay."""
    increments = {n: i for n, i in increments_of(tiny.unet).items() if n != "nudity"}
    keep = KeepList.of(
        tiny.text, [TaggedPrompt("a dog"), TaggedPrompt("a church by dali", frozenset({"dali"}))], ["dali"]
    )
    base = snapshot(tiny.unet)
    composer = Composer(tiny.unet, increments, solve="joint", keep=keep, keep_weight=3.0, ridge=0.01)
    composer.set(strengths)
    names = [name for name, _ in tiny.unet.named_parameters() if reads_text(name)]

    def scaled(rows, weight=1.0):
        return rows.double() * (weight * rows.shape[1] / rows.double().square().sum()).sqrt()

    kept = torch.cat([tiny.text([""]), tiny.text(["a dog"])]).flatten(0, 1)  # nothing about an erased concept
    systems, targets = [0.1 * torch.eye(tiny.unet.config.cross_attention_dim).double()], []
    others = torch.cat([increments[name].gram.T for name in sorted(increments.keys() - strengths.keys())])
    systems += [scaled(rows, len(strengths) * 3.0 / 2) for rows in (kept, others)]  # two lists
    targets = [torch.zeros(sum(map(len, systems)), len(stacked(increments["dali"], names))).double()]
    for concept, strength in strengths.items():
        tokens = scaled(increments[concept].gram.T)
        systems.append(tokens)
        targets.append(strength * tokens @ stacked(increments[concept], names).T)
    solution = torch.linalg.lstsq(torch.cat(systems), torch.cat(targets)).solution.T
    torch.testing.assert_close(keys_and_values(tiny.unet, base), solution, atol=2e-6, rtol=1e-3)


def test_joint_separates_concepts_that_have_room_where_a_sum_mixes_them(tiny, composer):
    off = {"dali": 1.0, "van gogh": 1.0}
    joint = Composer(tiny.unet, composer.increments, solve="joint", keep_weight=100.0, ridge=1e-3)
    joint.set(off)  # 24 tokens of four concepts in 32 dimensions
    assert max(joint.deviations().values()) < 0.01
    joint.restore_all()
    composer.set(off)
    assert min(composer.deviations().values()) > 0.1


def test_a_solve_reports_what_is_done_to_a_concept_beside_its_increment_alone(tiny, composer):
    composer.erase("dali")
    assert composer.deviations() == {"dali": pytest.approx(0, abs=1e-6)}
    composer.erase("van gogh")
    increments = composer.increments
    factor, names = increments["dali"].gram, [n for n in increments["dali"].deltas if reads_text(n)]
    interference = (stacked(increments["van gogh"], names) @ factor.double()).norm()
    expected = interference / (stacked(increments["dali"], names) @ factor.double()).norm()
    assert composer.deviations()["dali"] == pytest.approx(expected.item(), rel=1e-4)


def test_project_cuts_out_what_the_others_say(tiny, composer):
    increments, base = composer.increments, snapshot(tiny.unet)
    composer = Composer(tiny.unet, increments, solve="project", tolerance=1e-4)
    composer.erase("dali", "van gogh")
    kept = keys_and_values(tiny.unet, base) @ increments["monet"].gram.double()
    own = keys_and_values(tiny.unet, base) @ increments["dali"].gram.double()
    assert kept.norm() < 1e-3 * own.norm()


@pytest.mark.parametrize("solve", ["joint", "project"])
def test_an_increment_without_a_gram_matrix_can_only_be_summed(tiny, caplog, solve):
    from dataclasses import replace

    increments = increments_of(tiny.unet)
    increments["dali"] = replace(increments["dali"], gram=None)
    base = snapshot(tiny.unet)
    composer = Composer(tiny.unet, increments, solve=solve)
    with pytest.raises(ValueError, match="'dali' holds no Gram matrix.*erase it again"):
        composer.erase("dali")
    assert_bits(tiny.unet, base)
    for _ in range(2):
        composer.erase("van gogh")
        composer.restore_all()
    told = [r.getMessage() for r in caplog.records if "the tokens of 'dali' are not kept" in r.getMessage()]
    assert len(told) == 1  # once, and the others are composed
    assert_bits(tiny.unet, base)
    Composer(tiny.unet, increments).erase("dali", "van gogh")


def test_the_default_is_joint_with_a_keep_list_and_the_sum_without(tiny):
    increments = increments_of(tiny.unet)
    assert Composer(tiny.unet, increments).solve == "sum"
    assert Composer(tiny.unet, increments, keep=KeepList.of(tiny.text, [], increments)).solve == "joint"


def test_the_kept_side_grows_with_the_number_of_erased_concepts(tiny):
    """A copy of a concept under another name must not halve the weight of what is kept."""
    (one, *_), kept = increments_of(tiny.unet).values(), KeepList.of(tiny.text, [TaggedPrompt("a dog")], [])
    changes = []
    for names in (["a"], ["a", "b", "c", "d"]):
        base = snapshot(tiny.unet)
        composer = Composer(tiny.unet, dict.fromkeys(names, one), keep=kept, ridge=1e-6)
        composer.erase(*names)
        changes.append(keys_and_values(tiny.unet, base))
        composer.restore_all()
    assert (changes[0] - changes[1]).norm() < 1e-2 * changes[0].norm()


def test_bad_solves_are_refused(tiny):
    for options, message in (
        ({"solve": "jiont"}, "unknown solve 'jiont'; did you mean 'joint'"),
        ({"keep_weight": math.nan}, "keep_weight is nan, give 0 or more"),
        ({"ridge": -1.0}, "ridge is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Composer(tiny.unet, {}, **options)
    singular = Composer(tiny.unet, increments_of(tiny.unet), solve="joint", ridge=0.0)
    with pytest.raises(ValueError, match="singular with ridge 0.0: give a larger one"):
        singular.erase("dali")


def test_crosstalk_is_what_an_increment_does_to_others_tokens_and_to_what_is_kept(tiny):
    increments = {n: i for n, i in increments_of(tiny.unet).items() if n != "nudity"}
    prompts = [TaggedPrompt("a dog"), TaggedPrompt("a church by dali", frozenset({"dali"}))]
    composer = Composer(tiny.unet, increments, keep=KeepList.of(tiny.text, prompts, ["dali"]))
    names = sorted(filter(reads_text, increments["dali"].deltas))
    frozen = torch.cat([dict(tiny.unet.named_parameters())[name].detach() for name in names]).double()
    composer.erase("monet")  # it is the base's weights that count
    table = composer.crosstalk()
    for concept, listed in (("dali", ["", "a dog"]), ("monet", ["", "a dog", "a church by dali"])):
        delta = stacked(increments[concept], names)
        kept = tiny.text(listed).flatten(0, 1).double()
        for column, tokens in (("(kept)", kept), ("van gogh", increments["van gogh"].gram.T.double())):
            expected = (delta @ tokens.T).norm() / (frozen @ tokens.T).norm()
            assert table[concept][column] == pytest.approx(expected.item(), rel=1e-4)
