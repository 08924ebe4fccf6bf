"""Tiny pipelines of every family: the real classes and layouts, random weights, small widths."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from multierase import Model, from_pipeline
from multierase.emoji import STUDIOS, SUBJECTS

SIDE = 8  # latents
# As in Qwen3's, of what is said to it once.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def tiny_sd(
    tokenizer: CLIPTokenizer, *, version: int = 1, seed: int = 0
) -> StableDiffusionPipeline:
    """Make Stable Diffusion 1.x or 2.x: the real blocks and layout, random weights, small width."""
    torch.manual_seed(seed)
    second = version == 2
    width = 48 if second else 32
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=width,
        attention_head_dim=[2, 4, 4, 4] if second else 4,
        use_linear_projection=second,
        norm_num_groups=16,
    )
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_tower(tokenizer, width, act="gelu" if second else "quick_gelu", layers=2),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(second),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _scheduler(second: bool) -> DDIMScheduler | PNDMScheduler:
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction" if second else "epsilon",
    }
    if second:
        return DDIMScheduler(**schedule, clip_sample=False)

    return PNDMScheduler(**schedule, skip_prk_steps=True)


def tiny_sdxl(tokenizer: CLIPTokenizer, *, v_prediction: bool = False) -> StableDiffusionXLPipeline:
    """Make Stable Diffusion XL."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 2),
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
        cross_attention_dim=32 + 48,
        norm_num_groups=16,
    )

    return StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_tower(tokenizer, 32, act="quick_gelu"),
        text_encoder_2=tiny_tower(tokenizer, 48, pooled=24),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            prediction_type="v_prediction" if v_prediction else "epsilon",
        ),
        force_zeros_for_empty_prompt=not v_prediction,
    )


def tiny_sd3(tokenizer: CLIPTokenizer, *, t5: bool = True) -> StableDiffusion3Pipeline:
    """Make Stable Diffusion 3.5: with T5, or without."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=16,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=16 + 24,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )

    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(16),
        text_encoder=tiny_tower(tokenizer, 24, act="quick_gelu", pooled=16),
        tokenizer=tokenizer,
        text_encoder_2=tiny_tower(tokenizer, 40, pooled=24),
        tokenizer_2=tokenizer,
        text_encoder_3=_t5(64) if t5 else None,
        tokenizer_3=t5_tokenizer() if t5 else None,
    )


def tiny_flux(tokenizer: CLIPTokenizer, *, schnell: bool = False) -> FluxPipeline:
    """Make FLUX.1 dev, whose guidance is an input, or schnell."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        guidance_embeds=not schnell,
        axes_dims_rope=(4, 6, 6),
    )
    shift = {"shift": 1.0} if schnell else {"shift": 3.0, "use_dynamic_shifting": True}
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**shift),
        vae=tiny_vae(16),
        text_encoder=tiny_tower(tokenizer, 32, act="quick_gelu"),
        tokenizer=tokenizer,
        text_encoder_2=_t5(64),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )
    pipeline.default_sample_size = SIDE

    return pipeline


def tiny_flux2_klein(
    tokenizer: CLIPTokenizer | None = None, *, distilled: bool = False
) -> Flux2KleinPipeline:
    """Make FLUX.2 klein, which does not take CLIP's tokenizer: the base, or distilled."""
    torch.manual_seed(0)
    own, width = qwen_tokenizer(), 32
    tower = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(own),
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=28,  # the pipeline reads the 9th, the 18th and the 27th
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            # So many random layers would make noise of a word if they had larger weights.
            initializer_range=0.05,
            pad_token_id=own.pad_token_id,
        )
    )
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * width,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16), latent_channels=4, norm_num_groups=4, sample_size=64
    )
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=tower,
        tokenizer=own,
        transformer=transformer,
        is_distilled=distilled,
    )
    pipeline.default_sample_size = SIDE

    return pipeline


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Make a tokenizer of Qwen3's kind, with its chat template: some whole words, and bytes."""
    vocabulary = {token: index for index, token in enumerate(sorted(ByteLevel.alphabet()))}
    merges: dict[tuple[str, str], None] = {}
    spaced = [f"Ġ{word}" for word in _words()]
    for word in [*spaced, *_words(), "user", "assistant", "ĊĊ"]:
        for end in range(1, len(word)):
            merges.setdefault((word[:end], word[end]))
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    for token in CHAT_TOKENS:
        vocabulary[token] = len(vocabulary)

    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=list(merges),
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=CHAT_TOKENS,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def t5_tokenizer() -> T5Tokenizer:
    """Make a tokenizer of T5's kind: some whole words, and letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -2.0) for word in _words()]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces += [("▁", -3.0), *((letter, -5.0) for letter in letters + letters.upper() + ".,'")]

    return T5Tokenizer(vocab=pieces, extra_ids=0)


def _words() -> list[str]:
    words = {word for text in (*STUDIOS, *SUBJECTS) for word in text.split()}

    return sorted({*words, "a", "by", "in", "the", "style", "of"})


def tiny_vae(channels: int = 4) -> AutoencoderKL:
    """Make the VAE of any family, which has eight pixels on a side for each latent."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=64,
        shift_factor=0.1 if channels == 16 else None,
    )


def tiny_tower(
    tokenizer: CLIPTokenizer,
    width: int,
    *,
    act: str = "gelu",
    pooled: int | None = None,
    layers: int = 3,
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Make a CLIP text tower, with a pooled vector or without."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=act,
        projection_dim=pooled or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    return CLIPTextModelWithProjection(config) if pooled else CLIPTextModel(config)


def _t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=width,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


MAKE = {"sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux, "flux2-klein": tiny_flux2_klein}
# Tokens of T5, or of Qwen3, whose chat template has fifteen, so that a test takes seconds.
LENGTH, CHAT_LENGTH = 12, 28


def tiny_model(name: str, tokenizer: CLIPTokenizer) -> Model:
    """Make a model of a family."""
    pipeline = MAKE[name](tokenizer)

    return from_pipeline(pipeline, "tiny", t5_length=length_of(pipeline))


def length_of(pipeline: DiffusionPipeline) -> int | None:
    """Return how many tokens the long text tower reads in tests, if there is one."""
    if isinstance(pipeline, Flux2KleinPipeline):
        return CHAT_LENGTH

    return None if isinstance(pipeline, StableDiffusionXLPipeline) else LENGTH
