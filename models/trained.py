"""The common part of all trained networks over windows: scaling, device and storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tocsin.models import files

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


S = TypeVar("S")


@contextmanager
def config_of(model: str, directory: Path) -> Iterator[None]:
    """Name the file and the model where a config has settings of another one.

    Raises:
        ValueError: a setting is missing, unknown or not possible.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError) as reason:
        raise ValueError(
            f"{directory / CONFIG_FILE}: {reason}; expected the config of {model}; train the model again"
        ) from None


class Stored(Generic[S]):
    """A trained model: weights, and settings.

    Args:
        config: a dataclass.
        weights: all that is stored; moved to `device` and set to evaluation mode.
    """

    def __init__(self, config: S, weights: nn.Module, device: torch.device) -> None:
        self.config, self.device = config, device
        self._weights = weights.to(device).eval()

    def save(self, directory: Path) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, which is created if missing."""
        store(self._weights, self.config, directory)

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self._weights.parameters())


class Config(Protocol):
    """The settings of a model over windows; stored as `config.json`."""

    @property
    def features(self) -> tuple[str, ...]: ...
    @property
    def window(self) -> int: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def scale(self) -> tuple[float, ...]: ...


C = TypeVar("C", bound=Config)


class Trained(Stored[C]):
    """A network over standardised windows, with its scaling and settings.

    Args:
        config: with `mean` and `scale` set.
        network: `[B, T, F]` -> a verdict `[B]` and attention `[B, A]`; moved to `device` and set to evaluation mode.
        device: on `cuda` the network runs under bfloat16 autocast, elsewhere in float32.
        attention_width: A, the width of the attention.

    Raises:
        ValueError: if the config has no mean and scale.
    """

    def __init__(self, config: C, network: nn.Module, device: torch.device, *, attention_width: int) -> None:
        if not config.mean or not config.scale:
            raise ValueError("config has no mean and scale; train the model, or load a trained one")
        super().__init__(config, network, device)
        self._attention_width = attention_width
        self._mean = torch.tensor(config.mean, device=device)
        self._factor = 1 / torch.tensor(config.scale, device=device)

    def run(
        self, windows: Tensor, network: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The network's verdict `[B]` and attention `[B, A]`, float32, on the device of `windows`; B may be 0.

        Args:
            network: called in place of the model's own.

        Raises:
            ValueError: if T or F differs from the config's.
        """
        source_device, expected = windows.device, (self.config.window, len(self.config.features))
        if windows.dim() != 3 or windows.shape[1:] != expected:
            raise ValueError(f"windows are {list(windows.shape)}, expected [B, {expected[0]}, {expected[1]}]")
        if not len(windows):  # LSTM kernels refuse an empty batch
            return windows.new_zeros(0), windows.new_zeros(0, self._attention_width)
        cuda = self.device.type == "cuda"
        windows = moved(windows, self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cuda):
            scaled = (windows - self._mean) * self._factor
            verdict, attention = (network or self._weights)(scaled)
            return verdict.float().to(source_device), attention.float().to(source_device)


def moved(batch: Tensor, device: torch.device) -> Tensor:
    """A batch on the device of a network; to a GPU by a pinned copy, since a copy of pageable memory would block."""
    if device.type == "cuda" and not batch.is_cuda:
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True)


def store(network: nn.Module, config: Any, directory: Path) -> None:
    """Write a network's weights and its settings, a dataclass, into `directory`, which is created if missing."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    files.write({directory / CONFIG_FILE: files.dumped(config), directory / WEIGHTS_FILE: save(weights)})


def restore(network: nn.Module, directory: Path, *, later: tuple[str, ...] = ()) -> None:
    """Load into a network the weights that `store` wrote.

    Args:
        later: beginnings of names that weights of earlier versions lack; those stay as they are.

    Raises:
        ValueError: they are those of another network.
    """
    weights = files.read_weights(directory / WEIGHTS_FILE)
    known = {name: tensor for name, tensor in network.state_dict().items() if later and name.startswith(later)}
    fill(network, {**known, **weights}, directory)


def fill(network: nn.Module, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Load weights into a network.

    Args:
        directory: that they come from.

    Raises:
        ValueError: they are those of another network; the first difference is named.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted({*expected, *got}):
        if expected.get(name) != got.get(name):
            raise ValueError(
                f"{directory / WEIGHTS_FILE}: expected {name} as in the network of {CONFIG_FILE}, {_shape(expected, name)}, got "
                f"{_shape(got, name)}; train the model again"
            )
    network.load_state_dict(weights)


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "none"


def placed(device: str) -> torch.device:
    """The device of that name; "auto" is the first GPU if there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
