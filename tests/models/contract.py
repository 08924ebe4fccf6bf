"""What every family of models must do. A family's tests subclass ``ModelContract``.

class TestMine(ModelContract):
    @pytest.fixture
    def model(self): ...
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from compositions import assert_bits, random_increment, snapshot
from diffusers import DDIMScheduler
from torch import nn

from multierase import Composer, Model
from multierase.models.conditioning import Conditioning
from multierase.models.scopes import FAMILIES, scope_names

PROMPTS = ["a church by Noto", "a cat", ""]


def latents(model: Model, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        count, *model.latent_shape, generator=torch.Generator().manual_seed(seed)
    ).to(model.dtype)


@contextlib.contextmanager
def recorded(modules):
    """Record the inputs and outputs of these modules' calls, in order."""
    calls = {module: [] for module in modules}

    def record(module, args, kwargs, output):
        calls[module].append((args, kwargs, output))

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def prediction_of(model: Model, output: torch.Tensor, x_t: torch.Tensor, t: float) -> torch.Tensor:
    """The noise that a pipeline's own prediction means, by its scheduler's formula; or a flow."""
    config = model.pipeline.scheduler.config
    if config.get("prediction_type", "epsilon") == "epsilon":
        return output
    root = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000)
    signal = torch.cumprod(1 - root**2, 0)[int(t)]

    return signal.sqrt() * output + (1 - signal).sqrt() * x_t


class ModelContract:
    @staticmethod
    def seen(model, args, kwargs, output):
        """Return latents, time ``(1,)`` and output of a pipeline's call of its denoiser."""
        x_t, t = args
        return x_t, t.reshape(1), output

    @staticmethod
    def scheduler(model, steps: int):
        """Return the scheduler whose steps the sampler is to take, of the noise."""
        config = model.pipeline.scheduler.config
        scheduler = DDIMScheduler.from_config(config, prediction_type="epsilon")
        scheduler.set_timesteps(steps)
        return scheduler

    @staticmethod
    def negative(model, prompt: str) -> dict:
        """Return what its pipeline takes of a negative prompt."""
        return {"negative_prompt": [prompt]}

    @pytest.fixture
    def conditioning(self, model) -> Conditioning:
        return model.encode(PROMPTS)

    # Encoding.

    def test_the_embeddings_are_those_of_its_pipeline(self, model):
        theirs = model.pipeline_inputs(PROMPTS, guided=False)
        for stream in model.encode(PROMPTS):
            name = {"tokens": "prompt_embeds", "pooled": "pooled_prompt_embeds"}[stream]
            torch.testing.assert_close(model.encode(PROMPTS)[stream], theirs[name])
            for prompt in PROMPTS:  # alone, and in a batch
                ours = model.encode([prompt])[stream]
                torch.testing.assert_close(ours[0], theirs[name][PROMPTS.index(prompt)])

    def test_a_prompt_is_encoded_once(self, model):
        model.encode(PROMPTS)
        encoders = [m for m in model.pipeline.components.values() if isinstance(m, nn.Module)]
        with recorded(encoders) as calls:
            again = model.encode([*PROMPTS, *PROMPTS])
        assert not any(calls.values())
        assert len(again) == 2 * len(PROMPTS)

    def test_conditioning_is_cut_and_joined_as_lists_are(self, conditioning):
        def same(a, b):
            assert list(a) == list(b)
            assert all(torch.equal(a[stream], b[stream]) for stream in a)

        count = len(conditioning)
        parts = conditioning.split([1, count - 1])
        assert [len(part) for part in parts] == [1, count - 1]
        same(Conditioning.cat(parts), conditioning)
        same(conditioning.take(slice(0, 1)), parts[0])
        same(
            conditioning.take(torch.tensor([2, 0])),
            Conditioning.cat([conditioning.take(slice(2, 3)), parts[0]]),
        )
        same(conditioning.repeat(2), Conditioning.cat([conditioning, conditioning]))
        moved = conditioning.to(torch.float64)
        assert {moved[stream].dtype for stream in moved} == {torch.float64}

    def test_own_tokens_are_some_of_the_tokens(self, model):
        for stream in model.streams:
            everything = model.tokens(["a church"], stream)
            own = model.own_tokens(["a church"], stream)
            assert 0 < len(own) <= len(everything)
            assert (len(own) == 1) is (stream == "pooled")
            for row in own:
                assert (everything == row).all(dim=1).any()

    def test_spans_are_all_tokens_in_their_order(self, model):
        for stream in model.streams:
            spans = model.spans("a church", stream)
            everything = model.tokens(["a church"], stream)
            assert torch.equal(torch.cat([span.rows for span in spans]), everything)
            counts = [reader.count("a church") for reader in model.text.readers]
            assert all(span.read in counts or stream == "pooled" for span in spans)

    # Predicting.

    def test_it_predicts_what_its_pipeline_predicts(self, model):
        denoiser = next(iter(model.components.values()))
        with recorded([denoiser]) as calls:
            model.pipeline(
                prompt=PROMPTS[0],
                num_inference_steps=4,
                guidance_scale=1.0,
                generator=torch.Generator().manual_seed(0),
                output_type="latent",
            )
        assert len(calls[denoiser]) >= 4
        for args, kwargs, output in calls[denoiser]:
            x_t, t, output = self.seen(model, args, kwargs, output[0])
            with torch.no_grad():
                ours = model.predict(x_t, t, model.encode(PROMPTS[:1]))
            theirs = prediction_of(model, output, x_t, t)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

    def test_other_weights_are_for_one_call_and_take_gradients(self, model, conditioning):
        base = snapshot(model)
        inputs = latents(model, 3), torch.tensor([10, 500, 900]), conditioning
        name = min(model.readers)
        other = (model.parameters()[name].detach() * 2).requires_grad_()
        with torch.no_grad():
            plain = model.predict(*inputs)
            same = model.predict(*inputs, {name: model.parameters()[name]})
        changed = model.predict(*inputs, {name: other})
        changed.float().sum().backward()

        torch.testing.assert_close(plain, same)
        assert not torch.allclose(plain, changed)
        assert other.grad.abs().sum() > 0
        assert_bits(model, base)

    def test_checkpointing_changes_no_prediction_and_ends(self, model, conditioning):
        inputs = latents(model, 3), torch.tensor([10, 500, 900]), conditioning
        with torch.no_grad():
            before = model.predict(*inputs)
            with model.checkpointed():
                assert torch.equal(model.predict(*inputs), before)
        for module in next(iter(model.components.values())).modules():
            assert not getattr(module, "gradient_checkpointing", False)

    def test_encoded_prompts_give_its_pipelines_pictures(self, model):
        options = {"num_inference_steps": 2, "output_type": "latent"}
        for guidance_scale in (1.0, 3.0):
            prompts = [
                {"prompt": PROMPTS[:2]},
                model.pipeline_inputs(PROMPTS[:2], guided=guidance_scale > 1),
            ]
            made = [
                model.pipeline(
                    **given,
                    **options,
                    guidance_scale=guidance_scale,
                    generator=torch.Generator().manual_seed(0),
                ).images
                for given in prompts
            ]
            assert torch.equal(*made)

    def test_another_prompt_takes_the_place_of_the_empty_one(self, model):
        options = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 3.0}

        def made(prompt, **given):
            generator = torch.Generator().manual_seed(0)
            return model.pipeline(prompt=prompt, **options, **given, generator=generator).images

        if not model.guided:
            for act in (lambda: model.unconditional("a cat"), lambda: model.adjusted(None)):
                with pytest.raises(ValueError, match="without classifier-free guidance"):
                    act()
            return

        plain = made(PROMPTS[:1])
        with model.unconditional("a cat"):
            ours = made(PROMPTS[:1])
        torch.testing.assert_close(ours, made(PROMPTS[:1], **self.negative(model, "a cat")))
        assert not torch.allclose(ours, plain)
        with model.adjusted(lambda null, asked, predict, first: asked):
            assert torch.equal(made(PROMPTS[:1]), plain)
        with model.adjusted(lambda null, asked, predict, first: predict("a cat")):
            torch.testing.assert_close(made(PROMPTS[:1]), made(["a cat"]))
        assert torch.equal(made(PROMPTS[:1]), plain)

    def test_guidance_is_classifier_free(self, model):
        eps_concept, eps_null = latents(model, 2), latents(model, 2, seed=1)
        guided = model.guide(eps_concept, eps_null, 3.0)
        torch.testing.assert_close(guided, 3 * eps_concept - 2 * eps_null)
        torch.testing.assert_close(model.guide(eps_concept, eps_null, 1.0), eps_concept)

    # Parameters.

    def test_parameters_carry_their_component(self, model):
        expected = {
            f"{component}.{name}": parameter
            for component, module in model.components.items()
            for name, parameter in module.named_parameters()
        }
        here = model.parameters()
        assert here.keys() == expected.keys()
        for name, parameter in expected.items():
            assert here[name] is parameter
            assert getattr(model.module_of(name), name.rpartition(".")[2]) is parameter

    def test_the_base_is_frozen(self, model):
        assert not any(parameter.requires_grad for parameter in model.parameters().values())

    def test_readers_are_the_layers_that_have_a_stream_as_their_only_input(self, model):
        """Found once more by changing everything else: the layers whose output stays the same."""
        layers = {}
        for name in model.parameters():
            if name.endswith(".weight") and isinstance(model.module_of(name), nn.Linear):
                layers[name] = model.module_of(name)
        church, cat = (model.encode([prompt]) for prompt in ("a church", "a cat by Noto"))
        asked = [(0, 100, church), (1, 900, church), (0, 100, cat)]
        with recorded(set(layers.values())) as calls, torch.no_grad():
            for seed, t, conditioning in asked:
                model.predict(latents(model, 1, seed), torch.tensor([t]), conditioning)

        found = set()
        for name, layer in layers.items():
            outputs = [output for _, _, output in calls[layer]]
            blind_to_latents = torch.equal(outputs[0], outputs[1])
            if not blind_to_latents or torch.equal(outputs[0], outputs[2]):
                continue
            # And what it reads is what the text towers say, with nothing done to it or beside it.
            ((seen, *_), _, _), *_ = calls[layer]
            for stream in model.streams:
                tokens = model.tokens(["a church"], stream)
                if seen.shape[-1] == tokens.shape[1] and torch.equal(seen.flatten(0, -2), tokens):
                    found.add(name)
        assert found == set(model.readers)

    def test_readers_see_their_streams_tokens(self, model):
        readers = model.readers
        assert set(readers.values()) <= set(model.streams)
        modules = {name: model.module_of(name) for name in readers}
        with recorded(set(modules.values())) as calls, torch.no_grad():
            model.predict(latents(model, 1), torch.tensor([500]), model.encode(["a church"]))
        for name, module in modules.items():
            (((seen, *_), _, _),) = calls[module]
            tokens = model.tokens(["a church"], readers[name])
            assert torch.equal(seen.flatten(0, -2), tokens.to(seen.dtype))

    def test_scopes_do_not_coincide(self, model):
        chosen = {scope: tuple(model.scope_parameters(scope)) for scope in model.scopes}
        assert len(set(chosen.values())) == len(chosen)
        for scope, names in chosen.items():
            assert scope in scope_names()
            assert list(names) == sorted(names)
            assert names
        assert set(chosen[model.exact_scope]) == set(model.readers)

    def test_an_unknown_scope_is_an_error(self, model):
        known = max(model.scopes, key=len)
        with pytest.raises(ValueError, match=f"did you mean '{known}'"):
            model.scope_parameters(known[:-1])

    def test_a_scope_that_selects_nothing_is_an_error(self, model, monkeypatch):
        from dataclasses import replace

        family = FAMILIES[model.family]
        name, scope = next(iter(family.scopes.items()))
        empty = replace(family, scopes={name: replace(scope, selects=lambda _: False)})
        monkeypatch.setitem(FAMILIES, model.family, empty)
        with pytest.raises(ValueError, match="selects no parameter of this model"):
            model.scope_parameters(name)

    def test_normalisations_are_in_no_scope(self, model):
        normal = (nn.LayerNorm, nn.GroupNorm)
        for scope in model.scopes:
            for name in model.scope_parameters(scope):
                assert not isinstance(model.module_of(name), normal), name

    def test_increments_are_applied_and_removed_bit_for_bit(self, model):
        base = snapshot(model)
        for scope in model.scopes:
            increment = random_increment(model, scope, scope, seed=0)
            composer = Composer(model, {scope: increment})
            composer.erase(scope)
            changed = {n for n, p in model.parameters().items() if not torch.equal(p, base[n])}
            assert changed == set(model.scope_parameters(scope))
            composer.close()
            assert_bits(model, base)

    # Sampling.

    def test_the_sampler_is_its_schedulers(self, model):
        ours, theirs = model.sampler(5), self.scheduler(model, 5)
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()
        noise = latents(model, 2)
        x_ours = x_theirs = ours.start(noise)
        for index, timestep in enumerate(theirs.timesteps):
            prediction = latents(model, 2, seed=index + 1)
            x_ours = ours.step(prediction, index, x_ours)
            x_theirs = theirs.step(prediction, timestep, x_theirs).prev_sample
            torch.testing.assert_close(x_ours, x_theirs)

    def test_a_step_depends_on_its_index_alone(self, model):
        sampler, x_t, prediction = model.sampler(4), latents(model, 2), latents(model, 2, seed=1)
        forwards = [sampler.step(prediction, index, x_t) for index in range(4)]
        backwards = [sampler.step(prediction, index, x_t) for index in reversed(range(4))]
        for a, b in zip(forwards, reversed(backwards), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(model.sampler(4).step(prediction, 2, x_t), forwards[2])

    @pytest.mark.parametrize("steps", [0, -1, 100_000])
    def test_steps_that_the_schedule_does_not_have(self, model, steps):
        with pytest.raises(ValueError, match=f"{steps} sampler steps: give 1 to"):
            model.sampler(steps)
