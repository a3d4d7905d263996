"""Replace small files atomically; read them, with an error that explains a damaged one."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def write(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together; replace older ones and create missing folders.

    Guarantee: after a kill, a full disk or a loss of power, each file is either unchanged or complete. All contents are on the
    disk before the first file gets its name.
    """
    temporaries = {file: file.with_name(f".{file.name}.{uuid.uuid4().hex}") for file in contents}
    try:
        for file, content in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporaries[file].open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
        for file, temporary in temporaries.items():
            temporary.replace(file)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def dumped(config: Any) -> bytes:
    """Encode a dataclass as the contents of its JSON file."""
    return (json.dumps(asdict(config), indent=2) + "\n").encode()


def read_json(file: Path) -> dict[str, Any]:
    """Read an object from a JSON file that training wrote.

    Raises:
        FileNotFoundError
        ValueError: the file is damaged.
    """
    try:
        stored = json.loads(file.read_bytes())
        if not isinstance(stored, dict):
            raise ValueError(f"a {type(stored).__name__}")
    except ValueError as reason:
        raise ValueError(
            f"{file}: expected a JSON object as training writes it, got {file.stat().st_size} bytes: {reason}; train the model "
            "again, or restore the file from a copy"
        ) from None
    return stored


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a file of weights: tensors by name.

    Raises:
        FileNotFoundError
        ValueError: the file is damaged.
    """
    try:
        return load_file(file)
    except SafetensorError as reason:
        raise ValueError(
            f"{file}: expected weights as training writes them, got {file.stat().st_size} bytes: {reason}; train the model "
            "again, or restore the file from a copy"
        ) from None
