"""Pairs of the model's and the adapter's settings that can't be honoured together, with the reason
that the libraries give and, where there is one, what mends it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from studio.errors import Problem
from studio.spec.adapter import LAYERWISE, PROMPTS

if TYPE_CHECKING:
    from studio.spec.recipe import RunSpec

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FOUR_BITS = ("nf4", "fp4")
# Adapters that peft multiplies with the stored weight, which is packed here.
_NOT_ON_FOUR_BITS = ("loha", "lokr")
_FROM_THE_WEIGHTS = ("olora", "pissa", "pissa_niter_16")
# Methods that can train the base's biases with them.
_WITH_BIAS = ("lora", "oft", "vera")


def check_adapter(spec: "RunSpec") -> Iterator[Problem]:
    """Every such problem of the sections model and adapter, and of the method's own."""
    yield from _model(spec)
    yield from _quantized(spec)
    yield from _layers(spec)
    yield from _compared(spec)
    match spec.adapter.method:
        case "lora":
            yield from _lora(spec)
        case "adalora":
            yield from _adalora(spec)
        case "none":
            yield from _full(spec)
        case "lokr" if spec.lokr.decompose_factor == 0:
            yield Problem(
                "lokr.decompose_factor",
                "is 0, and no layer can be split by that.",
                "Use -1, or a size of 1 or more.",
                {"lokr.decompose_factor": -1},
            )
    if spec.adapter.method in PROMPTS:
        yield from _prompt(spec)


def _model(spec: "RunSpec") -> Iterator[Problem]:
    model = spec.model
    if model.name_or_path.lower().endswith(_PICKLES):
        yield Problem(
            "model.name_or_path",
            "is a pickle file, which can run any code when it is opened.",
            "Give a folder with safetensors.",
        )
    if model.trust_remote_code and not model.trusted_files:
        yield Problem(
            "model.trust_remote_code",
            "is on, and no file is named that may run.",
            "Look at the model's files on the Model page and consent to them, or turn it off.",
            {"model.trust_remote_code": False},
        )
    if model.device_map == "cpu" and model.dtype == "float16":
        yield Problem(
            "model.dtype",
            "is float16, which is not computed on a CPU.",
            "Use auto, float32 or bfloat16.",
            {"model.dtype": "auto"},
        )


def _quantized(spec: "RunSpec") -> Iterator[Problem]:
    adapter, kind = spec.adapter, spec.model.quantization
    if kind == "none":
        return
    if adapter.method == "none":
        yield Problem(
            "adapter.method",
            f"is none, and {kind} weights are rounded and can't be trained themselves.",
            "Choose lora, or no quantization.",
            {"adapter.method": "lora"},
        )
    if kind in _FOUR_BITS and adapter.method in _NOT_ON_FOUR_BITS:
        yield Problem(
            "adapter.method",
            f"{adapter.method} is multiplied with the weights themselves, and peft can't do that "
            f"with packed {kind} ones.",
            "Use lora, int8, or no quantization.",
            {"adapter.method": "lora"},
        )
    if adapter.method != "lora":
        return
    if adapter.use_dora and kind not in _FOUR_BITS:
        yield Problem(
            "adapter.use_dora",
            f"DoRA needs the size of each weight, which peft can't read from {kind} ones.",
            "Use nf4, fp4 or no quantization, or turn DoRA off.",
            {"adapter.use_dora": False},
        )
    if adapter.init_lora_weights in _FROM_THE_WEIGHTS:
        yield Problem(
            "adapter.init_lora_weights",
            f"{adapter.init_lora_weights} takes a part of the weights out of the base, which "
            f"{kind} ones can't give back exactly.",
            "Use default or gaussian, or no quantization.",
            {"adapter.init_lora_weights": "default"},
        )
    if adapter.init_lora_weights == "orthogonal":
        yield Problem(
            "adapter.init_lora_weights",
            f"orthogonal makes the adapter in the numbers of the weights, and {kind} ones are "
            "rounded.",
            "Use default or gaussian, or no quantization.",
            {"adapter.init_lora_weights": "default"},
        )


def _layers(spec: "RunSpec") -> Iterator[Problem]:
    adapter, targets = spec.adapter, spec.adapter.target_modules
    if adapter.method not in LAYERWISE:
        return
    if isinstance(targets, list) and "lm_head" in targets:
        yield Problem(
            "adapter.target_modules",
            "names lm_head, and trl computes the loss from the head's own weight: an adapter on "
            "it would never learn.",
            "Leave it out here, and name it in modules_to_save.",
            {
                "adapter.target_modules": [t for t in targets if t != "lm_head"] or "all-linear",
                "adapter.modules_to_save": sorted({*adapter.modules_to_save, "lm_head"}),
            },
        )
    both = sorted(set(adapter.modules_to_save) & set(targets if isinstance(targets, list) else ()))
    if both:
        yield Problem(
            "adapter.modules_to_save",
            f"{both[0]} gets an adapter already.",
            "Name it in one of the two.",
            {"adapter.modules_to_save": [m for m in adapter.modules_to_save if m not in both]},
        )
    if adapter.method == "ia3" and isinstance(targets, list):
        missing = [name for name in spec.ia3.feedforward_modules if name not in targets]
        if missing:
            yield Problem(
                "ia3.feedforward_modules",
                f"{missing[0]} is none of the target modules.",
                "Add it to those, or leave it out here.",
                {
                    "ia3.feedforward_modules": [
                        name for name in spec.ia3.feedforward_modules if name in targets
                    ]
                },
            )


def compares(spec: "RunSpec") -> bool:
    """Whether the trainer compares the model with the base that it began as."""
    trainer = spec.train.trainer
    return trainer in ("dpo", "kto") or (trainer == "grpo" and spec.grpo.beta > 0)


def _compared(spec: "RunSpec") -> Iterator[Problem]:
    """What changes the base, where it is compared with: trl takes the model without its adapter for
    it."""
    if not compares(spec):
        return
    method, trainer = spec.adapter.method, spec.train.trainer
    if method == "lora" and spec.adapter.init_lora_weights in _FROM_THE_WEIGHTS:
        yield Problem(
            "adapter.init_lora_weights",
            f"{spec.adapter.init_lora_weights} takes a part of the weights out of the base, and "
            f"the trainer {trainer} would compare with what is left of it.",
            "Use default.",
            {"adapter.init_lora_weights": "default"},
        )
    section = "adapter" if method == "lora" else method
    if method in _WITH_BIAS and getattr(spec, section).bias != "none":
        yield Problem(
            f"{section}.bias",
            f"is {getattr(spec, section).bias}: the base's own biases change, and the trainer "
            f"{trainer} would compare with a base that is no longer the same.",
            "Use none.",
            {f"{section}.bias": "none"},
        )


def _lora(spec: "RunSpec") -> Iterator[Problem]:
    adapter = spec.adapter
    ranks = [adapter.r, *adapter.rank_pattern.values()]
    odd = next((rank for rank in ranks if rank % 2), None)
    if adapter.init_lora_weights == "orthogonal" and odd is not None:
        yield Problem(
            "adapter.r" if adapter.r % 2 else "adapter.rank_pattern",
            f"{odd} is odd, and orthogonal needs an even rank.",
            f"Use {odd + 1}.",
            {"adapter.r": odd + 1} if adapter.r % 2 else {},
        )
    starts_from_weights = adapter.init_lora_weights in _FROM_THE_WEIGHTS
    if starts_from_weights and adapter.use_dora:
        yield Problem(
            "adapter.use_dora",
            f"with {adapter.init_lora_weights} the adapter can't be given back for the base as it "
            "was: DoRA's magnitudes belong to the changed one.",
            "Turn it off, or use the initialization default.",
            {"adapter.use_dora": False},
        )
    if (
        starts_from_weights
        and adapter.use_rslora
        and (adapter.rank_pattern or adapter.alpha_pattern)
    ):
        yield Problem(
            "adapter.use_rslora",
            f"{adapter.init_lora_weights} can't be given back as a plain adapter with a pattern of "
            "ranks under rsLoRA.",
            "Turn it off, or empty the patterns.",
            {"adapter.use_rslora": False},
        )
    if starts_from_weights and adapter.modules_to_save:
        yield Problem(
            "adapter.modules_to_save",
            f"is not kept together with {adapter.init_lora_weights}.",
            "Empty it, or use the initialization default.",
            {"adapter.modules_to_save": []},
        )


def _adalora(spec: "RunSpec") -> Iterator[Problem]:
    own, steps = spec.adalora, spec.train.max_steps
    if own.target_r > own.init_r:
        yield Problem(
            "adalora.target_r",
            f"is above the first rank of {own.init_r}: ranks are only taken away.",
            "Lower it, or raise init_r.",
            {"adalora.init_r": own.target_r},
        )
    if steps > 0:
        yield from pruning_problems(spec, steps)


def pruning_problems(spec: "RunSpec", steps: int) -> Iterator[Problem]:
    """What leaves AdaLoRA no step to prune in, in a run of so many; the first one only looks."""
    own = spec.adalora
    if spec.adapter.method == "adalora" and max(own.tinit, 1) >= steps - own.tfinal:
        yield Problem(
            "adalora.tinit",
            f"leaves no step to prune in: {own.tinit} before and {own.tfinal} after, of {steps}.",
            "Lower tinit or tfinal, or train for more steps.",
            {"adalora.tinit": 0, "adalora.tfinal": 0},
        )


def _full(spec: "RunSpec") -> Iterator[Problem]:
    if spec.model.dtype == "float16":
        yield Problem(
            "model.dtype",
            "is float16, whose gradients can't be scaled where the weights themselves are trained "
            "in it.",
            "Use auto: the weights are then held in float32.",
            {"model.dtype": "auto"},
        )
    if spec.train.trainer == "grpo" and spec.grpo.beta:
        yield Problem(
            "grpo.beta",
            f"is {spec.grpo.beta:g}, and trl's grpo compares with a base that it loads again by "
            "itself, without what was added to it here.",
            "Use 0, or train an adapter.",
            {"grpo.beta": 0.0},
        )


def _prompt(spec: "RunSpec") -> Iterator[Problem]:
    method, train = spec.adapter.method, spec.train
    if train.trainer == "orpo" and method != "prefix_tuning":
        yield Problem(
            "adapter.method",
            f"trl's orpo compares the answers position by position, and {method} puts positions of "
            "its own in front of them.",
            "Use lora or prefix_tuning, or the trainer dpo.",
            {"adapter.method": "lora"},
        )
    if train.packing:
        yield Problem(
            "train.packing",
            f"{method} puts its text in front of a batch's rows, and packed rows share one front.",
            "Turn it off.",
            {"train.packing": False},
        )
    if method == "prefix_tuning" and train.activation_checkpointing:
        yield Problem(
            "train.activation_checkpointing",
            "turns off the cache that prefix_tuning puts its keys and values into.",
            "Turn it off.",
            {"train.activation_checkpointing": False},
        )
    own = getattr(spec, method)
    if own.num_virtual_tokens >= train.max_length:
        yield Problem(
            f"{method}.num_virtual_tokens",
            f"is not below max_length ({train.max_length}): no room is left for the rows.",
            "Lower it.",
            {f"{method}.num_virtual_tokens": 20},
        )
