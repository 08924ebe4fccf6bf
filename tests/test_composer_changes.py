"""Weights that somebody else changes, models that somebody else holds."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from functools import partial

import pytest
import torch
from compositions import Expected, assert_bits, increments_of, snapshot
from torch import nn

from multierase import Composer, erase, from_pipeline
from multierase.errors import DeviceError, IncrementFileError, ModelChanged, ModelHeld
from multierase.methods import METHODS, Order, as_concepts


@pytest.fixture
def increments(tiny):
    return increments_of(tiny)


@pytest.fixture
def composer(tiny, increments):
    return Composer(tiny, increments)


@pytest.fixture
def reader(tiny):
    """The name of a parameter that ``dali`` changes."""
    return min(tiny.readers)


def another_checkpoint(model):
    """Other values for everything, as a state dict of the denoiser."""
    state = model.pipeline.unet.state_dict()
    generator = torch.Generator().manual_seed(5)

    return {n: v + 0.1 * torch.randn(v.shape, generator=generator) for n, v in state.items()}


def load_in_place(model, reader):
    model.pipeline.unet.load_state_dict(another_checkpoint(model))


def load_by_assigning(model, reader):
    model.pipeline.unet.load_state_dict(another_checkpoint(model), assign=True)


def add_to_data(model, reader):
    model.parameters()[reader].data += 0.01


def replace_data(model, reader):
    parameter = model.parameters()[reader]
    parameter.data = parameter.data * 1.5


def replace_layer(model, reader):
    """As quantisation does."""
    layer = model.module_of(reader)
    path = reader.removeprefix("unet.").rpartition(".")[0]
    model.pipeline.unet.set_submodule(path, nn.Linear(layer.in_features, layer.out_features))


def wrap_layer(model, reader):
    path = reader.removeprefix("unet.").rpartition(".")[0]
    model.pipeline.unet.set_submodule(path, nn.Sequential(model.module_of(reader)))


def cast(model, reader):
    model.pipeline.unet.half()


CHANGES = [
    load_in_place,
    load_by_assigning,
    add_to_data,
    replace_data,
    replace_layer,
    wrap_layer,
    cast,
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_noticed_and_nothing_is_written(tiny, composer, reader, change):
    composer.erase("dali")
    change(tiny, reader)
    after = snapshot(tiny)
    attempts = [
        lambda: composer.erase("van gogh"),
        lambda: composer.restore("dali"),
        composer.restore_all,
        lambda: composer.check({"monet": 1.0}),
    ]
    for attempt in attempts:
        with pytest.raises(ModelChanged, match=r"close\(\) this composer"):
            attempt()
        assert composer.erased == {"dali": 1.0}
        assert_bits(tiny, after)


@pytest.mark.parametrize("change", CHANGES)
def test_a_composer_that_is_out_of_date_can_be_closed(tiny, composer, reader, change, caplog):
    base = snapshot(tiny)
    composer.erase("dali")
    change(tiny, reader)
    theirs = snapshot(tiny)
    composer.close()

    # What nobody else has written is the base's again; the rest is theirs, and said.
    assert "stay as they are" in caplog.text
    assert composer.erased == {}
    for name, value in snapshot(tiny).items():
        known = [weights[name] for weights in (base, theirs) if name in weights]
        assert any(torch.equal(value, weight) for weight in known), name

    made = increments_of(tiny)
    if reader in tiny.parameters():
        other = Composer(tiny, made)
        before = snapshot(tiny)
        other.erase("dali")
        other.restore_all()
        assert_bits(tiny, before)


@pytest.mark.parametrize("change", [load_in_place, load_by_assigning, replace_data, cast])
def test_with_nothing_erased_other_weights_are_the_new_base(tiny, composer, reader, change):
    composer.erase("dali")
    composer.restore_all()
    change(tiny, reader)
    before = snapshot(tiny)
    if change is not cast:
        with pytest.raises(IncrementFileError, match="made for another base"):
            composer.erase("dali")
        assert_bits(tiny, before)
        composer.increments = composer.increments | increments_of(tiny)
        composer = Composer(tiny, composer.increments)

    composer.erase("dali")
    assert composer.erased == {"dali": 1.0}
    composer.restore_all()
    assert_bits(tiny, before)


def test_other_weights_are_noticed_even_by_a_composer_that_has_only_looked(tiny, composer, reader):
    composer.crosstalk()  # every increment is checked, and its fingerprints are kept
    load_in_place(tiny, reader)
    before = snapshot(tiny)
    with pytest.raises(IncrementFileError, match="made for another base"):
        composer.erase("dali")
    assert_bits(tiny, before)


def test_weights_that_another_concept_will_change_are_watched_too(tiny, composer):
    composer.check({"nudity": 1.0})
    composer.erase("dali")
    name = next(iter(composer.increments["nudity"].deltas))
    tiny.parameters()[name].data += 0.01
    before = snapshot(tiny)
    with pytest.raises(ModelChanged, match="has other values"):
        composer.erase("nudity")
    assert_bits(tiny, before)


def test_a_fused_lora_is_noticed(tiny, composer, reader):
    peft = pytest.importorskip("peft")
    path = reader.removeprefix("unet.").removesuffix(".weight")
    composer.erase("dali")
    tuned = peft.get_peft_model(
        tiny.pipeline.unet,
        peft.LoraConfig(r=2, target_modules=[path], init_lora_weights=False),
    )
    # Beside the weights, it changes none of them.
    composer.erase("van gogh")
    composer.restore("van gogh")

    tuned.merge_and_unload()
    with pytest.raises(ModelChanged, match="fused a LoRA"):
        composer.erase("van gogh")

    # Fused before the first composition, it is part of the base.
    composer.close()
    with_lora = snapshot(tiny)
    again = Composer(tiny, increments_of(tiny))
    again.erase("dali")
    again.restore_all()
    assert_bits(tiny, with_lora)


@pytest.mark.parametrize("erased", [True, False])
def test_an_offloaded_model_says_so(tiny, composer, reader, erased):
    if erased:
        composer.erase("dali")
    layer = tiny.module_of(reader)
    weight = layer.weight
    layer.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
    with pytest.raises(DeviceError, match="offloaded; move it to a device"):
        composer.erase("dali", "van gogh")

    layer.weight = weight  # back again
    composer.erase("van gogh")
    assert composer.erased.keys() >= {"van gogh"}


def test_what_is_offloaded_and_brought_back_is_not_taken_for_a_change(tiny, composer, reader):
    base = snapshot(tiny)
    composer.erase("dali")
    for parameter in tiny.parameters().values():
        parameter.data = parameter.data.clone()  # as moving a module does
    composer.restore_all()
    assert_bits(tiny, base)


# One composer has concepts erased at a time.


def test_a_second_composer_is_refused_until_the_first_has_restored(tiny, composer, increments):
    composer.erase("dali")
    before = snapshot(tiny)
    for model in (tiny, from_pipeline(tiny.pipeline, "another name for it")):
        second = Composer(model, increments)
        for attempt in (
            partial(second.erase, "monet"),
            partial(second.check, {"dali": 1.0}),
            second.crosstalk,
        ):
            with pytest.raises(ModelHeld, match=r"call its restore_all\(\) or close\(\) first"):
                attempt()
        second.restore_all()  # nothing is erased by it
        assert_bits(tiny, before)

    composer.restore_all()
    second.erase("monet")
    with pytest.raises(ModelHeld):
        composer.erase("dali")
    second.close()
    composer.erase("dali")
    assert_bits(tiny, before)


def test_a_composer_that_is_gone_gives_the_base_back(tiny, increments, caplog):
    base = snapshot(tiny)
    expected = Expected(tiny, increments)
    Composer(tiny, increments).erase("dali", "nudity")
    assert gc.isenabled()  # no collection is needed: it is in no cycle
    second = Composer(tiny, increments)
    second.erase("monet")
    assert "a composer was lost while concepts were erased: the base is restored" in caplog.text
    assert_bits(tiny, expected[{"monet": 1.0}])
    second.restore_all()
    assert_bits(tiny, base)


@pytest.mark.parametrize("change", [load_in_place, load_by_assigning, replace_layer])
def test_a_composer_that_is_gone_leaves_what_others_have_written(tiny, increments, reader, change):
    Composer(tiny, increments).erase("dali")
    change(tiny, reader)
    theirs = snapshot(tiny)
    second = Composer(tiny, increments_of(tiny))
    second.restore_all()
    if change is not replace_layer:
        assert_bits(tiny, theirs)
        second.erase("monet")
        second.restore_all()
        assert_bits(tiny, theirs)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_held_module_is_free(tiny, composer, increments, how):
    composer.erase("dali")
    twin = from_pipeline(copy.copy(tiny.pipeline), "copy")
    twin.components = {"unet": how(tiny.pipeline.unet)}
    erased = snapshot(twin)
    assert_bits(tiny, erased)

    made = increments_of(twin)
    second = Composer(twin, made)
    second.erase("monet")
    second.restore_all()
    assert_bits(twin, erased)
    composer.restore_all()
    assert_bits(twin, erased)


def test_a_held_model_is_saved_as_it_is_composed(tiny, composer, tmp_path):
    composer.erase("dali")
    tiny.pipeline.unet.save_pretrained(tmp_path)
    loaded = type(tiny.pipeline.unet).from_pretrained(tmp_path)
    here = dict(tiny.pipeline.unet.named_parameters())
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, here[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_training_while_concepts_are_erased_is_refused_at_once(
    tiny, composer, quick, method, monkeypatch
):
    composer.erase("dali")
    monkeypatch.setattr(type(tiny), "predict", lambda *_: pytest.fail("it predicts"))
    with pytest.raises(ModelHeld, match="concepts are erased"):
        erase(tiny, "Noto", quick, method=method)
    with pytest.raises(ModelHeld):
        next(METHODS[method].produce(tiny, Order(as_concepts(["Noto"]), quick)))


def test_two_composers_in_two_threads_never_mix(tiny, increments):
    base, expected = snapshot(tiny), Expected(tiny, increments)
    refused, failures = [], []

    def work(composer, name):
        for _ in range(40):
            try:
                with composer.erasing(name):
                    assert_bits(tiny, expected[{name: 1.0}])
            except ModelHeld:
                refused.append(name)
            except BaseException as error:
                failures.append(error)

    threads = []
    for name in ("dali", "monet"):
        expected[{name: 1.0}]
        threads.append(threading.Thread(target=work, args=(Composer(tiny, increments), name)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_bits(tiny, base)


def test_parameters_that_somebody_trains_are_composed_without_gradients(tiny, composer, reader):
    base = snapshot(tiny)
    tiny.parameters()[reader].requires_grad_(True)
    composer.erase("dali")
    parameter = tiny.parameters()[reader]
    assert parameter.is_leaf
    assert parameter.grad is None
    composer.restore_all()
    assert_bits(tiny, base)
