"""The published layout of DINO vision transformers: the settings in `config.json`, and the tensors by name and shape.

The layout is that of transformers' `Dinov2Model`, `Dinov2WithRegistersModel` and `DINOv3ViTModel` as their weights are
distributed. transformers 5 renamed the modules, but still saves weights in this layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

UNUSED = "embeddings.mask_token"
"""Replaces hidden patches in training."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of a family's tensors. `gated` and `gated_down` are of an MLP with a gate; the gate is the first part of `gated`."""

    patches: str
    block: str
    query: str
    key: str
    value: str
    out: str
    up: str
    down: str
    gated: tuple[str, ...]
    gated_down: str
    norm: str


DINOV2 = Names(
    patches="embeddings.patch_embeddings.projection",
    block="encoder.layer.{}",
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
    out="attention.output.dense",
    up="mlp.fc1",
    down="mlp.fc2",
    gated=("mlp.weights_in",),
    gated_down="mlp.weights_out",
    norm="layernorm",
)
DINOV3 = Names(
    patches="embeddings.patch_embeddings",
    block="layer.{}",
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    out="attention.o_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    gated=("mlp.gate_proj", "mlp.up_proj"),
    gated_down="mlp.down_proj",
    norm="norm",
)
FAMILIES = {"dinov2": DINOV2, "dinov2_with_registers": DINOV2, "dinov3_vit": DINOV3}
"""Names by `model_type`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a vision transformer, from `config.json`.

    Args:
        names: of its tensors.
        width, depth, heads, hidden: width of a token, number of blocks, heads in a block, width inside the MLP.
        gated: whether the MLP has a gate.
        activation: "gelu" or "silu".
        registers: number of tokens without a position after the class token.
        patch: height and width of a patch, in pixels.
        epsilon: of the layer normalisations.
        unbiased: names of the layers without a bias.
        rope: the base of rotary positions; None for learned ones.
        side: number of learned positions along each side of the image; 0 with rotary ones.
        antialias: whether learned positions are smoothed when they are interpolated to fewer.
    """

    names: Names
    width: int
    depth: int
    heads: int
    hidden: int
    gated: bool
    activation: str
    registers: int
    patch: int
    epsilon: float
    unbiased: frozenset[str]
    rope: float | None
    side: int
    antialias: bool


class Weights:
    """The tensors of a safetensors file, each taken once by its name and required shape.

    Raises:
        ValueError: if the file is not safetensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._remaining: dict[str, Tensor] = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error

    def take(self, name: str, *shape: int) -> Tensor:
        """Take the tensor of that name, as float32.

        Raises:
            ValueError: if it is missing or has another shape.
        """
        if name not in self._remaining:
            raise ValueError(f"{self._path}: {name} is missing, expected {list(shape)}; {self._others()}")
        tensor = self._remaining.pop(name)
        if tensor.shape != shape:
            raise ValueError(f"{self._path}: {name} is {list(tensor.shape)}, expected {list(shape)} by config.json")
        return tensor.float()

    def layer(self, name: str, *shape: int, bias: bool = True) -> tuple[Tensor, Tensor]:
        """Take a layer's weight and bias; the bias is 0 if the layer has none."""
        weight = self.take(f"{name}.weight", *shape)
        return weight, self.take(f"{name}.bias", shape[0]) if bias else torch.zeros(shape[0])

    def finish(self) -> None:
        """Check that every tensor was taken, except `UNUSED` and empty ones.

        Raises:
            ValueError: if one was not.
        """
        self._remaining = {n: t for n, t in self._remaining.items() if n != UNUSED and t.numel()}  # empty: no registers
        if self._remaining:
            raise ValueError(f"{self._path}: unexpected {self._others()}; expected no more by config.json")

    def _others(self) -> str:
        some = [f"{name} {list(tensor.shape)}" for name, tensor in sorted(self._remaining.items())[:3]]
        return f"{len(self._remaining)} other tensors{': ' if some else ''}{', '.join(some)}"


def settings(path: Path) -> Settings:
    """Read a `config.json`.

    Raises:
        ValueError: if its family is unknown, or a value is missing, of the wrong type or out of range.
    """
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in FAMILIES:
        raise ValueError(f"{path}: model_type is {kind!r}, expected one of {', '.join(FAMILIES)}")
    c = _Config(path, config)
    width, heads, patch = c.count("hidden_size"), c.count("num_attention_heads"), c.count("patch_size")
    if width % heads:
        raise ValueError(f"{path}: num_attention_heads ({heads}) must divide hidden_size ({width})")
    shared = {
        "names": FAMILIES[kind],
        "width": width,
        "depth": c.count("num_hidden_layers"),
        "heads": heads,
        "patch": patch,
        "epsilon": c.number("layer_norm_eps"),
    }
    return _dinov3(c, shared) if kind == "dinov3_vit" else _dinov2(c, shared, registers=kind != "dinov2")


class _Config:
    """Values of a `config.json`, each checked when it is read."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self._values = path, values

    def count(self, name: str, *, minimum: int = 1) -> int:
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"{self.path}: {name} is {value!r}, expected a whole number of at least {minimum}")
        return value

    def number(self, name: str) -> float:
        value = self._values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"{self.path}: {name} is {value!r}, expected a number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: {name} is {value!r}, expected true or false")
        return value

    def activation(self) -> str:
        value = self._values.get("hidden_act", "gelu")
        if value not in ("gelu", "silu"):
            raise ValueError(f"{self.path}: hidden_act is {value!r}, expected 'gelu' or 'silu'")
        return str(value)


def _dinov2(c: _Config, shared: dict[str, Any], *, registers: bool) -> Settings:
    names, gated, image = DINOV2, c.flag("use_swiglu_ffn", False), c.count("image_size")
    hidden = int(shared["width"] * c.number("mlp_ratio"))
    return Settings(
        **shared,
        hidden=-(-int(hidden * 2 / 3) // 8) * 8 if gated else hidden,  # as many weights as without a gate
        gated=gated,
        activation="silu" if gated else c.activation(),
        registers=c.count("num_register_tokens", minimum=0) if registers else 0,
        unbiased=frozenset() if c.flag("qkv_bias", True) else frozenset((names.query, names.key, names.value)),
        rope=None,
        side=image // shared["patch"],
        antialias=registers,
    )


def _dinov3(c: _Config, shared: dict[str, Any]) -> Settings:
    names, head = DINOV3, shared["width"] // shared["heads"]
    if head % 4:
        raise ValueError(f"{c.path}: hidden_size / num_attention_heads is {head}, expected a multiple of 4 to rotate")
    flags = {
        ("query_bias", True): (names.query,),
        ("key_bias", False): (names.key,),
        ("value_bias", True): (names.value,),
        ("proj_bias", True): (names.out,),
        ("mlp_bias", True): (names.up, names.down, *names.gated),
    }
    return Settings(
        **shared,
        hidden=c.count("intermediate_size"),
        gated=c.flag("use_gated_mlp", False),
        activation=c.activation(),
        registers=c.count("num_register_tokens", minimum=0),
        unbiased=frozenset(n for (flag, default), layers in flags.items() for n in layers if not c.flag(flag, default)),
        rope=c.number("rope_theta"),
        side=0,
        antialias=False,
    )
