"""The sections of a run's spec. A new option is one entry here: the form, the recipe, the
command line and the documentation follow from it. Names are those of transformers, trl, peft
and bitsandbytes, so that what one knows from there holds here."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from studio.spec.field import Section, option

_HF = "https://huggingface.co/docs"
_TRAINER = f"{_HF}/transformers/main_classes/trainer"
_GENERATION = f"{_HF}/transformers/main_classes/text_generation"
_DPO = f"{_HF}/trl/dpo_trainer"
_KTO = f"{_HF}/trl/kto_trainer"
_LORA = f"{_HF}/peft/package_reference/lora"
_BNB = f"{_HF}/transformers/quantization/bitsandbytes"


class ModelSection(Section):
    """Which model, and in which numbers its frozen weights are held."""

    name_or_path: str = option(
        "SmolLM2-135M-Instruct",
        "A model of the catalogue, a folder with config.json and safetensors, or a Hub id. "
        "Larger models learn more and cost more memory and time.",
        label="Model",
        group="Model",
        basic=True,
        min_length=1,
        link=f"{_HF}/hub/models",
    )
    revision: str | None = option(
        None,
        "Branch, tag or commit of a Hub model. Name a commit to get the same weights forever.",
        label="Revision",
        group="Loading",
    )
    quantization: Literal["none", "int8", "nf4", "fp4"] = option(
        "none",
        "How the frozen weights are held. nf4 takes a quarter of the memory and costs a little "
        "quality; none is the most exact.",
        label="Quantization",
        group="Model",
        basic=True,
        widget="radio",
        link=_BNB,
    )
    bnb_4bit_use_double_quant: bool = option(
        True,
        "Quantize the scales of a 4-bit model too: saves 0.4 bits a weight, costs nothing you "
        "will see.",
        label="Double quantization",
        group="Loading",
        link=_BNB,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "The numbers that unquantized weights are computed in. auto: bfloat16 where the hardware "
        "has it, else float16 on a GPU and float32 on a CPU.",
        label="dtype",
        group="Loading",
        link=f"{_HF}/transformers/models",
    )
    attn_implementation: Literal["sdpa", "eager"] = option(
        "sdpa",
        "How attention is computed. sdpa is faster; eager is the reference.",
        label="Attention",
        group="Loading",
        link=f"{_HF}/transformers/attention_interface",
    )


def _names(value: object) -> object:
    """Accepts what people write: "q_proj, v_proj", a list, or a list that holds all-linear."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list):
        return value
    stripped = [n.strip() if isinstance(n, str) else n for n in names]
    kept = [n for n in stripped if n != ""]
    return "all-linear" if "all-linear" in kept else kept


class AdapterSection(Section):
    """The LoRA adapter: the small part that is trained."""

    r: int = option(
        16,
        "Rank: the size of the adapter. Raise it if the model can't learn the task; lower it if "
        "it parrots.",
        label="LoRA rank (r)",
        group="LoRA",
        basic=True,
        ge=1,
        le=1024,
        link=_LORA,
    )
    lora_alpha: int = option(
        32,
        "How strongly the adapter speaks: its output is scaled by alpha / r. Twice r is a common "
        "choice.",
        label="LoRA alpha",
        group="LoRA",
        basic=True,
        ge=1,
        le=4096,
        link=_LORA,
    )
    lora_dropout: float = option(
        0.0,
        "Share of the adapter's inputs dropped while training. Raise it towards 0.1 if "
        "evaluation loss rises early.",
        label="LoRA dropout",
        group="LoRA details",
        ge=0.0,
        le=0.9,
        link=_LORA,
    )
    target_modules: Annotated[Literal["all-linear"] | list[str], BeforeValidator(_names)] = option(
        "all-linear",
        "The layers that get an adapter. all-linear learns best; q_proj and v_proj alone take "
        "less memory.",
        label="Target modules",
        group="LoRA details",
        widget="choices",
        choices=(
            "all-linear",
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ),
        link=_LORA,
        min_length=1,
    )
    bias: Literal["none", "all", "lora_only"] = option(
        "none",
        "Which bias terms are trained as well. none keeps the base model untouched when the "
        "adapter is off.",
        label="Bias",
        group="LoRA details",
        link=_LORA,
    )
    use_rslora: bool = option(
        False,
        "Scale by alpha / sqrt(r): steadier at ranks of 64 and more.",
        label="rsLoRA",
        group="LoRA details",
        link="https://arxiv.org/abs/2312.03732",
    )
    use_dora: bool = option(
        False,
        "Train direction and magnitude apart: often better at low rank, about a third slower.",
        label="DoRA",
        group="LoRA details",
        link="https://arxiv.org/abs/2402.09353",
    )


class TrainSection(Section):
    """How the adapter is trained. Every name but `trainer` is a field of trl's SFTConfig."""

    trainer: Literal["sft", "dpo", "kto"] = option(
        "sft",
        "How the rows teach: sft learns their answers; dpo learns which of two answers is better; "
        "kto learns from answers marked good or bad.",
        label="Trainer",
        group="Trainer",
        link=f"{_HF}/trl/index",
    )
    num_train_epochs: float = option(
        3.0,
        "How often the model sees every row. More learns the data better and, in the end, by "
        "heart.",
        label="Epochs",
        group="Training",
        basic=True,
        gt=0,
        le=1000,
        link=_TRAINER,
    )
    max_steps: int = option(
        -1,
        "Stop after this many steps, whatever the epochs say. -1: the epochs decide.",
        label="Max steps",
        group="Length",
        ge=-1,
        le=10_000_000,
        link=_TRAINER,
    )
    learning_rate: float = option(
        2e-4,
        "Size of each step. Lower it if the loss jumps, raise it if the loss hardly moves.",
        label="Learning rate",
        group="Training",
        basic=True,
        widget="sci",
        gt=0,
        le=1,
        link=_TRAINER,
    )
    per_device_train_batch_size: int = option(
        8,
        "Rows in one forward pass. Lower it when memory runs out, and raise accumulation by as "
        "much.",
        label="Batch size",
        group="Training",
        basic=True,
        ge=1,
        le=4096,
        link=_TRAINER,
    )
    gradient_accumulation_steps: int = option(
        1,
        "Passes that make up one step: a larger effective batch in the same memory, at more time "
        "a step.",
        label="Gradient accumulation",
        group="Length",
        ge=1,
        le=4096,
        link=_TRAINER,
    )
    max_length: int = option(
        1024,
        "Tokens kept of each row; the rest is cut off. Raise it if the data page shows cut tokens.",
        label="Max length",
        group="Training",
        basic=True,
        ge=8,
        le=1_048_576,
        link=f"{_HF}/trl/sft_trainer",
    )
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = option(
        "random",
        "The order of the rows. group_by_length puts rows of like length together: less padding, "
        "a little less chance. sequential keeps the file's order.",
        label="Row order",
        group="Memory and speed",
        link=_TRAINER,
    )
    packing: bool = option(
        False,
        "Put several short rows into one sequence without letting them see each other: less "
        "padding, "
        "fewer and fuller steps.",
        label="Packing",
        group="Memory and speed",
        link=f"{_HF}/trl/reducing_memory_usage",
    )
    activation_checkpointing: bool = option(
        False,
        "Compute activations twice instead of keeping them: about a quarter slower, far less "
        "memory.",
        label="Activation checkpointing",
        group="Memory and speed",
        link=_TRAINER,
    )
    optim: Literal[
        "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "lion_8bit", "adafactor", "sgd"
    ] = option(
        "adamw_torch",
        "The optimizer. The 8-bit ones save memory; adamw_torch is the safe choice.",
        label="Optimizer",
        group="Optimizer",
        link=_TRAINER,
    )
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = option(
        "linear",
        "How the learning rate falls over the run. constant keeps it; cosine falls late.",
        label="Scheduler",
        group="Optimizer",
        link=_TRAINER,
    )
    warmup_steps: float = option(
        0.0,
        "Steps over which the learning rate rises from 0; below 1 it is a share of the run. "
        "Raise it if "
        "the first losses jump.",
        label="Warmup",
        group="Optimizer",
        ge=0,
        le=1_000_000,
        link=_TRAINER,
    )
    weight_decay: float = option(
        0.0,
        "Pull of the adapter's weights towards 0. Raise it towards 0.1 against overfitting.",
        label="Weight decay",
        group="Optimizer",
        ge=0,
        le=1,
        link=_TRAINER,
    )
    max_grad_norm: float = option(
        1.0,
        "Gradients longer than this are cut to it. Lower it if the loss jumps; 0 turns it off.",
        label="Max gradient norm",
        group="Optimizer",
        ge=0,
        le=1000,
        link=_TRAINER,
    )
    neftune_noise_alpha: float | None = option(
        None,
        "Noise on the embeddings while training; 5 is usual and often makes answers fuller. "
        "Empty: off.",
        label="NEFTune noise",
        group="Optimizer",
        ge=0,
        le=100,
        link="https://arxiv.org/abs/2310.05914",
    )
    seed: int = option(
        42,
        "Decides the order of the rows, the held-back ones and the adapter's start. Same seed, "
        "same run.",
        label="Seed",
        group="Length",
        ge=0,
        le=2**31 - 1,
        link=_TRAINER,
    )
    logging_steps: int = option(
        1,
        "A point on the chart every so many steps.",
        label="Log every … steps",
        group="Saving",
        ge=1,
        le=100_000,
        link=_TRAINER,
    )
    save_steps: int = option(
        100,
        "A checkpoint every so many steps: less is lost when the machine fails, more disk is used.",
        label="Save every … steps",
        group="Saving",
        ge=1,
        le=10_000_000,
        link=_TRAINER,
    )
    save_total_limit: int = option(
        2,
        "Checkpoints kept; older ones are deleted.",
        label="Checkpoints kept",
        group="Saving",
        ge=1,
        le=1000,
        link=_TRAINER,
    )


class EvalSection(Section):
    """When the loss on the held-back rows is measured."""

    eval_steps: int = option(
        20,
        "Measure the evaluation loss every so many steps. More often shows overfitting sooner "
        "and takes time.",
        label="Evaluate every … steps",
        group="Evaluation",
        ge=1,
        le=10_000_000,
        link=_TRAINER,
    )
    eval_on_start: bool = option(
        True,
        "Measure it once before the first step, so that the chart begins where the base model "
        "stands.",
        label="Evaluate before the first step",
        group="Evaluation",
        link=_TRAINER,
    )
    per_device_eval_batch_size: int = option(
        8,
        "Rows in one pass of the evaluation. Lower it when memory runs out.",
        label="Evaluation batch size",
        group="Evaluation",
        ge=1,
        le=4096,
        link=_TRAINER,
    )


class DpoSection(Section):
    """What only the trainer dpo uses. Every name is a field of trl's DPOConfig."""

    beta: float = option(
        0.1,
        "How closely the tuned model keeps to the base. Raise it if the answers fall apart, lower "
        "it if nothing changes.",
        label="DPO beta",
        group="DPO",
        gt=0,
        le=10,
        link=_DPO,
    )
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down"] = option(
        "sigmoid",
        "The loss over a pair. sigmoid is DPO as published; ipo overfits less on few pairs; robust "
        "expects some labels to be wrong.",
        label="DPO loss",
        group="DPO",
        link=_DPO,
    )
    label_smoothing: float = option(
        0.0,
        "Share of the pairs expected to be the wrong way round. Raise it for noisy labels; robust "
        "needs it above 0.",
        label="DPO label smoothing",
        group="DPO",
        ge=0,
        lt=0.5,
        link=_DPO,
    )


class KtoSection(Section):
    """What only the trainer kto uses. Every name is a field of trl's KTOConfig."""

    beta: float = option(
        0.1,
        "How closely the tuned model keeps to the base. Raise it if the answers fall apart, lower "
        "it if nothing changes.",
        label="KTO beta",
        group="KTO",
        gt=0,
        le=10,
        link=_KTO,
    )
    loss_type: Literal["kto", "apo_zero_unpaired"] = option(
        "kto",
        "The loss of a row. kto estimates the drift from the base with mismatched answers; "
        "apo_zero_unpaired does without and is faster.",
        label="KTO loss",
        group="KTO",
        link=_KTO,
    )
    desirable_weight: float = option(
        1.0,
        "Weight of the good rows. Raise it if there are fewer good than bad ones.",
        label="Weight of good rows",
        group="KTO",
        gt=0,
        le=100,
        link=_KTO,
    )
    undesirable_weight: float = option(
        1.0,
        "Weight of the bad rows. Raise it if there are fewer bad than good ones.",
        label="Weight of bad rows",
        group="KTO",
        gt=0,
        le=100,
        link=_KTO,
    )


class GenerateSection(Section):
    """How answers are written in the chat."""

    system_prompt: str = option(
        "",
        "What the model is told before the conversation. Leave it empty for the template's own.",
        label="System prompt",
        group="Generation",
        widget="long",
    )
    max_new_tokens: int = option(
        128,
        "The longest answer, in tokens.",
        label="max_new_tokens",
        group="Generation",
        ge=1,
        le=32_768,
        link=_GENERATION,
    )
    do_sample: bool = option(
        False,
        "Draw each token by chance. Off, the likeliest is taken and the same question gets the "
        "same answer.",
        label="do_sample",
        group="Generation",
        link=_GENERATION,
    )
    temperature: float = option(
        0.7,
        "With do_sample on, how daring the draws are: lower is steadier, higher is more varied.",
        label="temperature",
        group="Generation",
        gt=0,
        le=5,
        link=_GENERATION,
    )
    top_p: float = option(
        0.9,
        "With do_sample on, draw only among the likeliest tokens that together reach this share. "
        "1 turns it off.",
        label="top_p",
        group="Generation",
        gt=0,
        le=1,
        link=_GENERATION,
    )
    top_k: int = option(
        50,
        "With do_sample on, draw only among this many likeliest tokens. 0 turns it off.",
        label="top_k",
        group="Generation",
        ge=0,
        le=1_000_000,
        link=_GENERATION,
    )
    repetition_penalty: float = option(
        1.0,
        "Above 1, tokens that were used already become less likely. Raise it towards 1.2 against "
        "loops.",
        label="repetition_penalty",
        group="Generation",
        ge=0.5,
        le=3,
        link=_GENERATION,
    )
    num_beams: int = option(
        1,
        "Follow several answers at once and keep the likeliest. Above 1 the answer comes whole, "
        "not streamed.",
        label="num_beams",
        group="Generation",
        ge=1,
        le=16,
        link=_GENERATION,
    )
    length_penalty: float = option(
        1.0,
        "With beams: above 0 prefers longer answers, below 0 shorter ones.",
        label="length_penalty",
        group="Generation",
        ge=-10,
        le=10,
        link=_GENERATION,
    )
    seed: int = option(
        42,
        "The dice of do_sample: the same seed draws the same answer.",
        label="seed",
        group="Generation",
        ge=0,
        le=2**31 - 1,
        link=_GENERATION,
    )
