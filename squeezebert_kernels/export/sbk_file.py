"""A checkpoint or a model as one .sbk file, for phones and boards without Python.

All that transformers can read goes in: SqueezeBERT and BERT in float32, half precision or int8, safetensors or
``pytorch_model.bin``. The file holds the configuration, weights packed for the kernels of one kind of CPU, and the
tokenizer as data, so that the device gives the same tokens.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import check_target
from ..models.heads import ARCHITECTURES
from ..models.sentence_config import SentenceConfig, read_sentence_config
from ..models.tokenization import make_lower_case
from . import c_library
from .tokenizer_data import tokenizer_data

DEFAULT_TIER = "neondot"
"""Its float32 and float16 layouts are those of every ARM CPU that can use them."""

_PREFIXES = {"squeezebert": "transformer.", "bert": "bert."}


def export(
    model: Any, output: str | Path, *, dtype: str = "float32", tier: str = DEFAULT_TIER, tokenizer: Any = None
) -> list[str]:
    """Writes a .sbk file.

    Args:
        model: a transformers model, or the folder of a checkpoint.
        output: the file. An existing one is replaced as a whole or, after an error, not at all; links are followed, and
            its mode is kept.
        dtype: "float32", "float16", "bfloat16" or "int8": what the encoder multiplies in.
        tier: the instruction set tier whose layout the weights get.
        tokenizer: a fast BERT tokenizer; None takes that of the folder, if there is one.

    Returns:
        What the user should know, e.g. that there is no tokenizer in the file.

    Raises:
        ValueError: a model, dtype or tier that is not supported, with the values.
        OSError: ``output`` cannot be written, or is a folder, device, pipe or socket.
    """
    if dtype not in c_library.DTYPE_NUMBERS:
        raise ValueError(f"dtype must be one of {', '.join(c_library.DTYPE_NUMBERS)}, got {dtype!r}")
    check_target(output)
    notes = []
    sentence: dict[str, Any] | None = None
    if not isinstance(model, torch.nn.Module):
        folder = Path(model)
        sentence, config = _sentence(folder)
        folder /= config.encoder
        if sentence is not None and "unsupported" in sentence:
            notes.append(f"sbk-run --embedding will refuse the file: {sentence['unsupported']}")
        if tokenizer is None:
            tokenizer, note = _load_tokenizer(folder)
            notes += [note] if note else []
            if tokenizer is not None and config.lower_case:
                make_lower_case(tokenizer)
        model = _load_model(folder)
    elif tokenizer is None:
        notes.append("no tokenizer was given: the file takes token ids only")
    with tempfile.TemporaryDirectory(prefix="sbk-export-") as plain:
        _write_plain(model, tokenizer, Path(plain), sentence)
        with c_library.loaded(plain, dtype, tier) as packed:
            c_library.save(packed, output)
    with c_library.loaded(output, tier=tier, verify=True):
        pass
    return notes


def _sentence(folder: Path) -> tuple[dict[str, Any] | None, SentenceConfig]:
    """What the configuration in the file says of embeddings, which the C library reads, and what was read.

    None for a checkpoint without the files of sentence-transformers.
    """
    try:
        config = read_sentence_config(folder)
    except ValueError as error:
        return {"unsupported": str(error)}, SentenceConfig()
    if not config.files:
        return None, config
    said: dict[str, Any] = {"pooling": ",".join(config.pooling), "normalize": config.normalize}
    if config.max_length is not None:
        said["max_length"] = config.max_length
    layers = [str(layer) for layer in config.layers if layer.kind != "Normalize"]
    if config.pooling not in (("mean",), ("cls",)):
        said["unsupported"] = f"{config.why['pooling']}: pooling {said['pooling']}"
    elif layers or len(config.layers) > 1:
        said["unsupported"] = f"{config.why['layers']}: {', '.join(layers or map(str, config.layers))}"
    elif config.prompt:
        said["unsupported"] = f"{config.why['prompt']}: the prompt {config.prompt!r}"
    return said, config


def _load_model(folder: Path) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    names = getattr(config, "architectures", None) or []
    if config.model_type not in _PREFIXES:
        raise ValueError(f"{str(folder)!r} holds a {config.model_type!r} model; SqueezeBERT and BERT can be exported")
    name = names[0] if names else "AutoModel"
    cls = ARCHITECTURES.get(name) or getattr(transformers, name, transformers.AutoModel)
    return cls.from_pretrained(folder)


def _load_tokenizer(folder: Path) -> tuple[Any, str]:
    import transformers

    if not any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json")):
        return None, f"no vocab.txt or tokenizer.json in {str(folder)!r}: the file takes token ids only"
    return transformers.AutoTokenizer.from_pretrained(folder), ""


def _plain_weights(state: Mapping[str, Any], model_type: str) -> dict[str, Tensor]:
    """Dense float32 weights by their bare names; one of tied ones."""
    weights: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, value in state.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        key = (value.data_ptr(), tuple(value.shape)) if type(value) in (Tensor, torch.nn.Parameter) else (id(value), ())
        if name.startswith("cls.predictions.decoder.") and key in seen:
            continue
        seen.add(key)
        weights[name.removeprefix(_PREFIXES[model_type])] = value.detach().to("cpu", torch.float32).contiguous().clone()
    return weights


def _write_plain(model: Any, tokenizer: Any, folder: Path, sentence: dict[str, Any] | None) -> None:
    """What the C library reads: config.json, model.safetensors in float32, and the tokenizer's tables.

    ``sentence``: how an embedding is made; None: the checkpoint does not say.
    """
    from safetensors.torch import save_file

    config = model.config
    if config.model_type not in _PREFIXES:
        raise ValueError(f"model is a {config.model_type!r} model; SqueezeBERT and BERT can be exported")
    # What the model is, not what its checkpoint was: a BertModel that was made from one with a head has none.
    known = ("transformers.", "squeezebert_kernels.")
    name = next((c.__name__ for c in type(model).__mro__ if c.__module__.startswith(known)), type(model).__name__)
    config = type(config).from_dict({**config.to_dict(), "architectures": [name]})
    text = config.to_json_string(use_diff=False)
    if sentence is not None:
        text = json.dumps({**json.loads(text), "sentence_embedding": sentence}, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    save_file(_plain_weights(model.state_dict(), config.model_type), folder / "model.safetensors")
    if tokenizer is not None:
        (folder / "tokenizer.sbk").write_bytes(tokenizer_data(tokenizer))
