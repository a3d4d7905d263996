"""Two synthetic tasks that need distant tokens, with their answers: nested lists, and a needle in a haystack."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median_low

import torch
from torch import Tensor

OPERATIONS: list[Callable[[list[int]], int]] = [max, min, median_low, lambda values: sum(values) % 10]
FIRST_OPERATION, CLOSE, PAD = 10, 14, 15
NOISE, NAMES, NEAR = 32, 4, 24


@dataclass(frozen=True)
class Task:
    """Sequences with one answer each, read at the last token.

    Args:
        tokens: size of the vocabulary.
        length: number of tokens in a sequence.
        answers: number of possible answers.
        draw: `draw(generator, size, length)` returns tokens `[size, length]` and answers `[size]`, both int64.
    """

    tokens: int
    length: int
    answers: int
    draw: Callable[[random.Random, int, int], tuple[Tensor, Tensor]]


def _listops(generator: random.Random, size: int, length: int) -> tuple[Tensor, Tensor]:
    """Draw nested lists of digits such as `[MAX 4 [MIN 2 9] 7]`, three deep, at least half of `length` long and padded in front."""
    rows, answers = [], []
    while len(rows) < size:
        tokens, value = _nested(generator, depth=3, room=length)
        if length // 2 <= len(tokens) <= length:
            rows.append([PAD] * (length - len(tokens)) + tokens)
            answers.append(value)
    return torch.tensor(rows), torch.tensor(answers)


def _nested(generator: random.Random, depth: int, room: int) -> tuple[list[int], int]:
    if depth == 0 or room < 8:
        digit = generator.randrange(10)
        return [digit], digit
    operation, parts = generator.randrange(len(OPERATIONS)), generator.randint(3, 8)
    tokens, values = [FIRST_OPERATION + operation], []
    for _ in range(parts):
        nested = generator.random() < 0.75
        inner, value = _nested(generator, depth - 1 if nested else 0, room // parts if depth < 3 else room // 3)
        tokens += inner
        values.append(value)
    return [*tokens, CLOSE], OPERATIONS[operation](values)


def _needle(generator: random.Random, size: int, length: int) -> tuple[Tensor, Tensor]:
    """Draw noise in which one token per name assigns it a value; the last token asks for the value of a name.

    In every other sequence the assignments are far, in its first half. In the others they are near, among the last `NEAR` tokens,
    and the question is a different token. An attention that may look far for half of the sequences thus gains by knowing which.
    """
    tokens = torch.tensor([[generator.randrange(NOISE) for _ in range(length)] for _ in range(size)])
    answers = []
    for near, row in enumerate(tokens):
        near %= 2
        names, values = generator.sample(range(NAMES), NAMES), [generator.randrange(NAMES) for _ in range(NAMES)]
        places = generator.sample(range(length - NEAR, length - 1) if near else range(length // 2), NAMES)
        for name, value, place in zip(names, values, places, strict=True):
            row[place] = NOISE + NAMES * name + value
        query = generator.randrange(NAMES)
        row[-1] = NOISE + NAMES * (NAMES + near) + names[query]
        answers.append(values[query])
    return tokens, torch.tensor(answers)


LISTOPS = Task(tokens=16, length=256, answers=10, draw=_listops)
NEEDLE = Task(tokens=NOISE + NAMES * (NAMES + 2), length=128, answers=NAMES, draw=_needle)
