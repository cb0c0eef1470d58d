"""How a checkpoint makes one vector of a text, as the files say that sentence-transformers keeps beside its weights.

modules.json                       what runs in which order: Transformer, Pooling, then Dense, Normalize, ...
sentence_bert_config.json          how long a text may be, and whether it is lower-cased
1_Pooling/config.json, ...         one for each module
config_sentence_transformers.json  prompts, i.e. texts that are put before every text

Whatever changes a vector is followed or refused by name: a field that is not known here is not passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .pooling import POOLING

__all__ = ["Layer", "SentenceConfig", "read_sentence_config"]

MODULES, PROMPTS = "modules.json", "config_sentence_transformers.json"
ENCODERS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
)
"""Names of the file that describes the encoder; the first that is there counts."""

# In the order in which sentence-transformers joins them where a file has several of these flags.
_FLAGS = {
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
_OF_NO_EFFECT = {"torch_dtype", "dtype", "attn_implementation", "add_pooling_layer", "trust_remote_code"}
_NOTHING: tuple[Any, ...] = (None, False, {}, [], "")


@dataclass(frozen=True)
class Layer:
    """A module behind the pooling."""

    kind: str  # "Normalize" (to length 1), "Dense", "LayerNorm" or "Truncate" (to the first numbers)
    folder: str = ""  # of its weights, inside the checkpoint's
    size: tuple[int, int] = (0, 0)  # Dense: numbers that go in and come out; LayerNorm, Truncate: the same twice
    bias: bool = True
    activation: str = "Tanh"  # Dense: a class of torch.nn
    residual: bool = False  # Dense: what goes in is added to what comes out

    def __str__(self) -> str:
        if self.kind != "Dense":
            return f"Truncate({self.size[0]})" if self.kind == "Truncate" else self.kind
        return f"Dense({self.size[0]}, {self.size[1]}, {self.activation}{', residual' if self.residual else ''})"


NORMALIZE = Layer("Normalize")


@dataclass(frozen=True)
class SentenceConfig:
    """How one vector of a text is made. The defaults are for checkpoints that do not say."""

    encoder: str = ""  # its folder, inside the checkpoint's
    pooling: tuple[str, ...] = ("mean",)  # of POOLING; the vectors of several are joined
    include_prompt: bool = True  # whether the tokens of the prompt are pooled with the others
    layers: tuple[Layer, ...] = (NORMALIZE,)
    max_length: int | None = None  # tokens of a text, special ones included; None: what the encoder takes
    lower_case: bool = False  # whether texts are lower-cased whatever the tokenizer does
    prompt: str = ""  # put before every text
    prompts: Mapping[str, str] = field(default_factory=dict)  # those that have names
    files: tuple[str, ...] = ()  # that were read
    why: Mapping[str, str] = field(default_factory=dict)  # for each of `chosen` what decided it

    @property
    def normalize(self) -> bool:
        """Whether vectors have length 1."""
        return self.layers[-1:] == (NORMALIZE,)

    def with_options(
        self,
        *,
        pooling: Sequence[str] | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
    ) -> SentenceConfig:
        """The same, with what was given by hand in place of what the checkpoint says.

        Args:
            pooling: of POOLING.
            normalize: True makes vectors of length 1 last of all; False leaves out every module that does.
            prompt: a text.
            prompt_name: one of ``prompts``.
            max_length: tokens.

        Raises:
            ValueError: there is no such prompt, or it is given in two ways.
        """
        changes: dict[str, Any] = {}
        why = dict(self.why)
        if prompt is not None and prompt_name is not None:
            raise ValueError(f"--prompt {prompt!r} and --prompt-name {prompt_name!r} exclude one another")
        if prompt_name is not None:
            if prompt_name not in self.prompts:
                there = ", ".join(map(repr, self.prompts)) or "none"
                raise ValueError(f"--prompt-name {prompt_name!r}: the checkpoint's prompts are {there}")
            prompt = self.prompts[prompt_name]
        if prompt is not None:
            changes["prompt"], why["prompt"] = prompt, "--prompt" if prompt_name is None else "--prompt-name"
        if pooling is not None:
            changes["pooling"], why["pooling"] = tuple(pooling), "--pooling"
        if max_length is not None:
            changes["max_length"], why["max_length"] = max_length, "--max-length"
        if normalize is False:
            changes["layers"] = tuple(layer for layer in self.layers if layer.kind != "Normalize")
            why["layers"] = "--no-normalize"
        elif normalize and not self.normalize:
            changes["layers"], why["layers"] = (*self.layers, NORMALIZE), "--normalize"
        return replace(self, **changes, why=why)

    def chosen(self) -> dict[str, Any]:
        """Everything that decides a vector, as JSON has it."""
        return {
            "pooling": ",".join(self.pooling),
            "include_prompt": self.include_prompt,
            "layers": list(map(str, self.layers)),
            "max_length": self.max_length,
            "lower_case": self.lower_case,
            "prompt": self.prompt,
        }

    def __str__(self) -> str:
        """One line about what is done, and what decided it."""

        def because(name: str) -> str:
            return f" ({self.why[name]})" if name in self.why else ""

        parts = [
            f"pooling {', '.join(self.pooling)}{because('pooling')}",
            f"then {', '.join(map(str, self.layers)) or 'nothing'}{because('layers')}",
        ]
        parts.append(f"at most {self.max_length} tokens{because('max_length')}")
        if self.lower_case:
            parts.append(f"lower case{because('lower_case')}")
        if self.prompt:
            pooled = "" if self.include_prompt else ", not pooled"
            parts.append(f"prompt {self.prompt!r}{pooled}{because('prompt')}")
        elif named := [name for name, text in self.prompts.items() if text]:
            parts.append(f"no prompt; the checkpoint has {', '.join(map(repr, named))} for --prompt-name")
        return "; ".join(parts)


class _Fields:
    """The fields of a JSON object in a file. They are taken one by one; what is left at the end is not known here."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        value = _read(folder, name)
        if not isinstance(value, dict):
            raise ValueError(f"{name} holds a {type(value).__name__}, not an object")
        self.fields: dict[str, Any] = value

    def take(self, key: str, kind: type | tuple[type, ...], missing: Any = None) -> Any:
        """The value of a field, ``missing`` where it is absent or null."""
        value = self.fields.pop(key, None)
        if value is None:
            return missing
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise ValueError(f"{self.name}: {key} is {value!r}, which is not understood")
        return value

    def expect(self, key: str, *allowed: Any) -> None:
        """Takes a field that may be absent or one of ``allowed``."""
        value = self.fields.pop(key, None)
        if value is not None and value not in allowed:
            raise ValueError(f"{self.name}: {key}={value!r} is not supported")

    def flag(self, key: str, missing: bool) -> bool:
        """A truth value, which old files also write as 0 or 1."""
        return bool(self.take(key, (bool, int), missing))

    def count(self, key: str) -> int | None:
        """A whole number from 1 on, or None."""
        value: int | None = self.take(key, int)
        if value is not None and value < 1:
            raise ValueError(f"{self.name}: {key} is {value}, it must be at least 1")
        return value

    def close(self) -> None:
        """ValueError if something was not taken."""
        unknown = [f"{key}={value!r}" for key, value in self.fields.items() if value not in _NOTHING]
        if unknown:
            raise ValueError(f"{self.name}: {', '.join(unknown)[:200]} is not supported")


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read: {str(error) or type(error).__name__}") from None


def read_sentence_config(folder: Path) -> SentenceConfig:
    """What the files of sentence-transformers in a checkpoint's folder say.

    Without modules.json there are none, and the answer is ``SentenceConfig()``: mean pooling, length 1.

    Raises:
        ValueError: a file is damaged or missing, or says something that is not supported; the message names both.
    """
    if not (folder / MODULES).exists():
        if stray := sorted(path.name for path in folder.glob("*_Pooling") if path.is_dir()):
            raise ValueError(f"there is {stray[0]}, but no {MODULES}, which says how it is used")
        return SentenceConfig(why={"pooling": "default", "layers": "default"})
    return _Checkpoint(folder).config()


class _Checkpoint:
    """Reads the files of one checkpoint, and remembers which."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[str] = []
        self.why: dict[str, str] = {}

    def config(self) -> SentenceConfig:
        modules = self.modules()
        kinds = [kind for kind, _ in modules]
        if kinds[:2] != ["Transformer", "Pooling"]:
            raise ValueError(
                f"{MODULES}: {', '.join(kinds) or 'nothing'} is not supported, only Transformer, Pooling, ..."
            )
        encoder, pooling = self.encoder(modules[0][1]), self.pooling(modules[1][1])
        layers = [self.layer(kind, path) for kind, path in modules[2:]]
        prompts, cut = self.prompts()
        self.why["layers"] = MODULES if cut is None else f"{MODULES}, {PROMPTS}"
        return SentenceConfig(
            **encoder, **pooling, **prompts,
            layers=tuple(layer for layer in (*layers, cut) if layer), files=tuple(self.files), why=self.why,
        )  # fmt: skip

    def fields(self, name: str) -> _Fields:
        fields = _Fields(self.folder, name)
        self.files.append(name)
        return fields

    def modules(self) -> list[tuple[str, str]]:
        """Class and folder of each module."""
        value = _read(self.folder, MODULES)
        self.files.append(MODULES)
        if not isinstance(value, list):
            raise ValueError(f"{MODULES} holds a {type(value).__name__}, not a list")
        result = []
        for one in value:
            name, path = (one.get("type"), one.get("path", "")) if isinstance(one, dict) else (None, "")
            if not isinstance(name, str) or not isinstance(path, str):
                raise ValueError(f"{MODULES}: {one!r} is no module")
            if not name.startswith("sentence_transformers."):
                raise ValueError(f"{MODULES}: the module {name!r} is the checkpoint's own code, which is not supported")
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{MODULES}: the path {path!r} leads out of the checkpoint")
            result.append((name.rpartition(".")[2], path))
        return result

    def encoder(self, path: str) -> dict[str, Any]:
        """Of the module Transformer."""
        names = [_inside(path, name) for name in ENCODERS]
        name = next((name for name in names if (self.folder / name).is_file()), None)
        if name is None:
            return {"encoder": path}
        fields = self.fields(name)
        length, lower = fields.count("max_seq_length"), fields.flag("do_lower_case", False)
        fields.expect("transformer_task", "feature-extraction")
        fields.expect("module_output_name", "token_embeddings")
        plain = {"method": "forward", "method_output_name": "last_hidden_state"}
        listed = {**plain, "method_output_name": ["last_hidden_state"]}
        fields.expect("modality_config", {"text": plain}, {"text": listed})
        fields.take("unpad_inputs", bool)  # another way to the same numbers
        for old, new in (("model_args", "model_kwargs"), ("tokenizer_args", "processor_kwargs")):
            options = {**fields.take(old, dict, {}), **fields.take(new, dict, {})}
            if new == "processor_kwargs" and isinstance(options.get("model_max_length"), int):
                length = options.pop("model_max_length")
            strange = [f"{key}={value!r}" for key, value in options.items() if key not in _OF_NO_EFFECT]
            if strange:
                raise ValueError(f"{name}: {', '.join(strange)[:200]} in {new} is not supported")
        fields.close()
        self.why |= {"lower_case": name} | ({"max_length": name} if length is not None else {})
        return {"encoder": path, "max_length": length, "lower_case": lower}

    def pooling(self, path: str) -> dict[str, Any]:
        """Of the module Pooling."""
        name = self.why["pooling"] = _inside(path, "config.json")
        fields = self.fields(name)
        flags = [mode for flag, mode in _FLAGS.items() if fields.flag(flag, False)]
        given = fields.take("pooling_mode", (str, list))
        modes = (given,) if isinstance(given, str) else tuple(flags or ["mean"] if given is None else given)
        if not modes or any(mode not in POOLING for mode in modes):
            raise ValueError(f"{name}: pooling_mode {given!r} is not supported, only {', '.join(POOLING)}")
        include = fields.flag("include_prompt", True)
        for size in ("word_embedding_dimension", "embedding_dimension"):
            fields.count(size)
        fields.close()
        return {"pooling": modes, "include_prompt": include}

    def layer(self, kind: str, path: str) -> Layer | None:
        """A module behind Pooling; None for one that does nothing when a model is used."""
        name = _inside(path, "config.json")
        if kind == "Dropout":
            return None
        if kind not in ("Normalize", "Dense", "LayerNorm"):
            raise ValueError(f"{MODULES}: the module {kind} behind Pooling is not supported")
        if kind == "Normalize" and not (self.folder / name).exists():
            return NORMALIZE
        fields = self.fields(name)
        for key in ("module_input_name", "module_output_name"):
            fields.expect(key, "sentence_embedding")
        if kind == "Normalize":
            fields.close()
            return NORMALIZE
        weights = [_inside(path, file) for file in ("model.safetensors", "pytorch_model.bin")]
        self.files += [file for file in weights if (self.folder / file).is_file()][:1]
        if kind == "LayerNorm":
            size = fields.count("dimension") or 0
            fields.close()
            return Layer(kind, path, (size, size))
        size, out = fields.count("in_features") or 0, fields.count("out_features") or 0
        bias, residual = fields.flag("bias", True), fields.flag("use_residual", False)
        activation = fields.take("activation_function", str, "torch.nn.modules.activation.Tanh")
        fields.close()
        if not activation.startswith(("torch.nn.modules.activation.", "torch.nn.modules.linear.Identity")):
            raise ValueError(f"{name}: activation_function {activation!r} is not supported, only those of torch.nn")
        return Layer(kind, path, (size, out), bias, activation.rpartition(".")[2], residual)

    def prompts(self) -> tuple[dict[str, Any], Layer | None]:
        """The prompts, and the cut at the end."""
        if not (self.folder / PROMPTS).exists():
            return {}, None
        fields = self.fields(PROMPTS)
        fields.expect("model_type", "SentenceTransformer")
        prompts = fields.take("prompts", dict, {})
        if strange := [name for name, text in prompts.items() if not isinstance(text, (str, type(None)))]:
            raise ValueError(f"{PROMPTS}: the prompt {strange[0]!r} is no text")
        # sentence-transformers has these two, empty, where a checkpoint does not.
        named = {"query": "", "document": "", **{name: text or "" for name, text in prompts.items()}}
        default = fields.take("default_prompt_name", str)
        if default is not None and default not in named:
            raise ValueError(f"{PROMPTS}: default_prompt_name {default!r} is none of {', '.join(map(repr, named))}")
        if default is not None:
            self.why["prompt"] = f"{PROMPTS}: default_prompt_name {default!r}"
        size = fields.count("truncate_dim")
        cut = None if size is None else Layer("Truncate", size=(size, size))
        return {"prompts": named, "prompt": "" if default is None else named[default]}, cut


def _inside(path: str, name: str) -> str:
    return (PurePosixPath(path) / name).as_posix()
