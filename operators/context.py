"""Geometric context attention: a frame attends to the first frames, the latest frames, and a few tokens of each in between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.operators.shapes import match


def context_mask(
    frames: int,
    *,
    tokens: int,
    anchor: int,
    window: int,
    special: int,
    memory: int | None = None,
    keyframes: Sequence[bool] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Build the mask of `context_attention`: which tokens of a clip see which.

    The first `anchor` frames see each other whole, and every later frame sees them whole. A later frame also sees itself whole,
    the last `window` keyframes whole (including itself if it is one), and the first `special` tokens of each earlier keyframe, or
    of the last `memory` of these.
    A frame that is not a keyframe is seen only by itself.
    Source: geometric context attention of LingBot-Map (arXiv 2604.14141) as in its public code; the mask is reconstructed.

    Args:
        frames: number of frames F, at least `anchor`.
        tokens: number of tokens P in a frame, the special ones first.
        anchor, window, special, memory: see above; a memory of None has no limit.
        keyframes: F flags; None makes every frame a keyframe. Anchor frames always are keyframes.

    Returns:
        `[F P, F P] bool`, True where a query (row) sees a key (column).

    Raises:
        ValueError: if the numbers do not fit together.
    """
    _check_sizes(anchor, window, special, memory)
    _check_frames(frames, tokens, anchor, special, keyframes)
    stored = (
        torch.ones(frames, dtype=torch.bool) if keyframes is None else torch.tensor(list(keyframes), dtype=torch.bool)
    )
    stored[:anchor] = True
    at = torch.arange(frames)
    anchored = at < anchor
    count = (stored & ~anchored).cumsum(0)  # keyframes after the anchor, up to and including each frame
    past = stored & (at <= at.unsqueeze(1))  # [F, F]: queries' frames, keys' frames
    recent = past & (count > count.unsqueeze(1) - window)
    whole = torch.where(anchored.unsqueeze(1), anchored, anchored | recent | torch.eye(frames, dtype=torch.bool))
    some = past & ~anchored.unsqueeze(1)
    if memory is not None:
        some &= anchored | (count > count.unsqueeze(1) - window - memory)
    seen = torch.where(torch.arange(tokens) < special, (whole | some).unsqueeze(-1), whole.unsqueeze(-1))  # [F, F, P]
    return seen.flatten(1).to(device).repeat_interleave(tokens, dim=0)


def context_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    anchor: int,
    window: int,
    special: int,
    memory: int | None = None,
    keyframes: Sequence[bool] | None = None,
) -> Tensor:
    """Attend over a whole clip under `context_mask`; this is the form for training.

    `ContextCache` gives the same result frame by frame.
    Source: geometric context attention of LingBot-Map (arXiv 2604.14141); the masked form over a clip is a reconstruction.

    Args:
        q, k, v: `[B, H, F, P, D]`, any float dtype; P tokens per frame, the special ones first. Rotary positions, if any, are
            already applied to keys and queries.
        anchor, window, special, memory, keyframes: as in `context_mask`.

    Returns:
        `[B, H, F, P, D]`, dtype of `q`.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    sizes = match(q=(q, "B H F P D"), k=(k, "B H F P D"), v=(v, "B H F P D"))
    mask = context_mask(
        sizes["F"],
        tokens=sizes["P"],
        anchor=anchor,
        window=window,
        special=special,
        memory=memory,
        keyframes=keyframes,
        device=q.device,
    )
    out = F.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), attn_mask=mask)
    return out.unflatten(2, (sizes["F"], sizes["P"]))


def naive_context_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    anchor: int,
    window: int,
    special: int,
    memory: int | None = None,
    keyframes: Sequence[bool] | None = None,
) -> Tensor:
    """`context_attention` a frame at a time, over a list of the frames that it sees: the oracle of its tests."""
    frames, tokens = match(q=(q, "B H F P D"), k=(k, "B H F P D"), v=(v, "B H F P D"))["F"], q.shape[3]
    _check_sizes(anchor, window, special, memory)
    _check_frames(frames, tokens, anchor, special, keyframes)
    outs, stored = [], list[int]()
    for t in range(frames):
        if t >= anchor and (keyframes is None or keyframes[t]):
            stored.append(t)
        recent = stored[-window:]
        seen = [(f, tokens) for f in range(anchor)]
        if t >= anchor:
            older = stored[: max(len(stored) - window, 0)]
            seen += [(f, special) for f in older[max(len(older) - memory, 0) if memory is not None else 0 :]]
            seen += [(f, tokens) for f in recent]
            seen += [(t, tokens)] if t not in recent else []
        keys, values = (torch.cat([x[:, :, f, :count] for f, count in seen], dim=2) for x in (k, v))
        logits = q[:, :, t] @ keys.mT * q.shape[-1] ** -0.5
        outs.append(torch.softmax(logits, dim=-1) @ values)
    return torch.stack(outs, dim=2)


class ContextCache:
    """The state of `context_attention` over a stream of frames, for inference: it holds no gradient.

    Keys are stored after their rotary embedding. A frame's position is its number in the stream; it does not change when other
    frames leave. One buffer holds the anchor, a ring of the latest frames and, at its end, the memory. The ring may be in any
    order, since attention does not depend on it. After t keyframes the buffer holds
    `(anchor + window) P + special (t - anchor - window)` tokens. The memory's room doubles when it is full, so a step copies
    the tokens of one frame, not the cache. A memory of a limited number of frames is a ring, too: then a frame costs the same
    however long the stream is.
    Source: geometric context attention of LingBot-Map (arXiv 2604.14141); the buffer's layout and the limit are this project's.

    Args:
        anchor: number of first frames that stay whole for the whole stream, at least 1. The paper's text has 3, its code 8.
        window: number of latest keyframes that are whole, at least 1. The paper's text has 16 to 64, its code 64.
        special: number of a frame's first tokens that stay when the frame leaves the window. The paper has 6.
        memory: number of frames that have left the window of which these tokens stay; None: all, as in the paper.
    """

    def __init__(self, *, anchor: int, window: int, special: int, memory: int | None = None) -> None:
        _check_sizes(anchor, window, special, memory)
        self.anchor, self.window, self.special, self.memory = anchor, window, special, memory
        self.frames = 0
        """Number of stored frames, including the anchor's."""
        self._patches = 0  # P
        self._buffer: Tensor | None = None  # [2, B, H, (anchor + window) P + room, D]: keys, values

    @property
    def tokens(self) -> int:
        """Number of stored tokens."""
        whole = min(self.frames, self.anchor + self.window)
        left = self.frames - whole
        return whole * self._patches + (left if self.memory is None else min(left, self.memory)) * self.special

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, including spare room."""
        return 0 if self._buffer is None else self._buffer.nbytes

    @torch.no_grad()
    def start(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the anchor frames, and attend from each; they see each other whole.

        Args:
            q, k, v: `[B, H, anchor, P, D]`, any float dtype, each frame's special tokens first.

        Returns:
            `[B, H, anchor, P, D]`, dtype of `q`.

        Raises:
            ValueError: if the shapes or dtypes do not fit together, or the stream has started.
        """
        dims = f"B H {self.anchor} P D"
        patches = match(q=(q, dims), k=(k, dims), v=(v, dims))["P"]
        if self.frames:
            raise ValueError(f"expected the anchor before all frames, got it after {self.frames}; use a new cache")
        _check_frames(self.anchor, patches, self.anchor, self.special, None)
        self._patches, self.frames = patches, self.anchor
        anchors = torch.stack((k.flatten(2, 3), v.flatten(2, 3)))
        self._room(anchors, 0)[..., : self.tokens, :] = anchors
        return F.scaled_dot_product_attention(q.flatten(2, 3), *anchors).unflatten(2, q.shape[2:4])

    @torch.no_grad()
    def step(self, q: Tensor, k: Tensor, v: Tensor, *, keyframe: bool = True) -> Tensor:
        """Attend from the next frame to itself, the anchor, the latest frames, and the memory of the frames between.

        Args:
            q: `[B, H, T, D]`, any float dtype: the queries of the frame, all or some.
            k, v: `[B, H, P, D]`, special tokens first.
            keyframe: store the frame. A frame that is not stored still sees itself and all stored tokens.

        Returns:
            `[B, H, T, D]`, dtype of `q`.

        Raises:
            ValueError: if the shapes or dtypes do not fit together, or the stream has not started.
        """
        if self._buffer is None:
            raise ValueError(f"expected start() with {self.anchor} anchor frames first, got a stream without them")
        dims = f"B H {self._patches} D"
        match(stored=(self._buffer[0], "B H S D"), q=(q, "B H T D"), k=(k, dims), v=(v, dims))
        end = self.tokens
        buffer = self._room(self._buffer, end + self._patches)
        ring_frame = self.frames - self.anchor  # number of this frame in the ring
        if keyframe and ring_frame >= self.window:
            at = (self.anchor + ring_frame % self.window) * self._patches  # the oldest frame's place; that frame leaves
            left = ring_frame - self.window  # frames that have left before it
            if self.memory is None or left < self.memory:
                to, used = end, end + self.special
            else:
                to, used = end - self.special * (self.memory - left % self.memory) if self.memory else end, end
            buffer[..., to : to + self.special, :] = buffer[..., at : at + self.special, :]
        else:  # the ring is not full, or the frame is used in this step only
            at, used = end, end + self._patches
        buffer[0, :, :, at : at + self._patches], buffer[1, :, :, at : at + self._patches] = k, v
        self.frames += keyframe
        keys, values = buffer[..., :used, :].to(q.dtype)
        return F.scaled_dot_product_attention(q, keys, values)

    def snapshot(self) -> dict[str, Tensor | int]:
        """Copy the state that `restore` needs: tensors and ints that later steps do not change."""
        state: dict[str, Tensor | int] = {
            name: getattr(self, name) for name in ("anchor", "window", "special", "frames")
        }
        if self.memory is not None:
            state["memory"] = self.memory
        if self._buffer is not None:
            state |= {"patches": self._patches, "stored": self._buffer[..., : self.tokens, :].clone()}
        return state

    def restore(self, state: dict[str, Tensor | int]) -> None:
        """Continue from a `snapshot` of a cache with the same anchor, window, special tokens and memory."""
        for name in ("anchor", "window", "special", "memory"):
            if state.get(name) != getattr(self, name):
                raise ValueError(
                    f"the snapshot has {name} {state.get(name)}, this cache {getattr(self, name)}; make them equal"
                )
        self.frames, self._patches, self._buffer = int(state["frames"]), int(state.get("patches", 0)), None
        if isinstance(stored := state.get("stored"), Tensor):
            self._room(stored, self.tokens)[..., : self.tokens, :] = stored

    @torch.inference_mode(False)  # a tensor made in inference mode could not be written to outside of it
    def _room(self, like: Tensor, tokens: int) -> Tensor:
        """Return the buffer with room for `tokens` tokens; the first call allocates it for tensors such as `like`."""
        fixed = (self.anchor + self.window) * self._patches
        if self._buffer is None:
            self._buffer = like.new_empty(*like.shape[:3], fixed + max(self._patches, tokens - fixed), like.shape[4])
        elif tokens > self._buffer.shape[3]:
            room = max(tokens - fixed, self._buffer.shape[3] - fixed)
            spare = self._buffer.new_empty(*self._buffer.shape[:3], room, self._buffer.shape[4])
            self._buffer = torch.cat((self._buffer, spare), dim=3)
        return self._buffer


def _check_sizes(anchor: int, window: int, special: int, memory: int | None = None) -> None:
    for name, size, minimum in (
        ("anchor", anchor, 1),
        ("window", window, 1),
        ("special", special, 0),
        ("memory", memory, 0),
    ):
        if size is not None and size < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {size}")


def _check_frames(frames: int, tokens: int, anchor: int, special: int, keyframes: Sequence[bool] | None) -> None:
    if frames < anchor:
        raise ValueError(f"a clip must have at least its {anchor} anchor frames; got {frames}")
    if special > tokens:
        raise ValueError(f"special ({special}) must be at most the tokens of a frame ({tokens})")
    if keyframes is not None and len(keyframes) != frames:
        raise ValueError(f"keyframes must be one for each of {frames} frames; got {len(keyframes)}")
