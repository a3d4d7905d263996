"""Attention over points, rays and walls as elements of a geometric algebra: what it computes turns and moves with the scene."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match

BLADES = 16
"""Components of a multivector: the products of e0, e1, e2, e3, by bit mask; e0 squares to 0, the others to 1."""
E1, E2, E3 = 0b0010, 0b0100, 0b1000
E01, E02, E03, E12, E13, E23 = 0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100
E012, E013, E023, E123 = 0b0111, 0b1011, 0b1101, 0b1110
MAPS = 9
"""Linear maps of multivectors that commute with every motion: the part of each grade, and that part times e0."""


def point(position: Tensor) -> Tensor:
    """Points `[..., 3]` as multivectors `[..., 16]`."""
    x, y, z = position.unbind(-1)
    return _filled({E123: torch.ones_like(x), E023: -x, E013: y, E012: -z})


def position(multivector: Tensor) -> Tensor:
    """The position `[..., 3]` of points `[..., 16]`."""
    scale = multivector[..., E123, None]
    return torch.stack([-multivector[..., E023], multivector[..., E013], -multivector[..., E012]], dim=-1) / scale


def ray(origin: Tensor, direction: Tensor) -> Tensor:
    """The lines through `origin` `[..., 3]` along `direction` `[..., 3]` as multivectors `[..., 16]`."""
    x, y, z = direction.unbind(-1)
    u, v, w = torch.linalg.cross(origin, direction).unbind(-1)
    return _filled({E23: x, E13: -y, E12: z, E01: u, E02: v, E03: w})


def plane(normal: Tensor, distance: Tensor) -> Tensor:
    """The planes `normal . x = distance` as multivectors `[..., 16]`; `normal` `[..., 3]`, `distance` `[...]`."""
    x, y, z = normal.unbind(-1)
    return _filled({E1: x, E2: y, E3: z, 1: -distance})


def motion(axis: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """A turn by `angle` `[...]` about the unit `axis` `[..., 3]` through the origin, then a `shift` `[..., 3]`: `[..., 16]`."""
    x, y, z = (-torch.sin(angle / 2).unsqueeze(-1) * axis).unbind(-1)
    turn = _filled({0: torch.cos(angle / 2), E23: x, E13: -y, E12: z})
    u, v, w = (shift / 2).unbind(-1)
    return product(_filled({0: torch.ones_like(u), E01: -u, E02: -v, E03: -w}), turn)


def moved(multivector: Tensor, by: Tensor) -> Tensor:
    """Multivectors `[..., 16]` after a motion `[..., 16]`."""
    return product(product(by, multivector), by * _reversal(by.dtype, by.device))


def product(x: Tensor, y: Tensor) -> Tensor:
    """The geometric product of multivectors `[..., 16]`."""
    pairs = (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(-2)  # [..., 256]
    return pairs @ _table(x.dtype, x.device).flatten(0, 1)


def naive_product(x: Tensor, y: Tensor) -> Tensor:
    """`product` blade by blade: the oracle of its tests."""
    parts = [torch.zeros_like(x[..., 0] * y[..., 0]) for _ in range(BLADES)]
    for i in range(BLADES):
        for j in range(BLADES):
            if sign := _sign(i, j):
                parts[i ^ j] = parts[i ^ j] + sign * x[..., i] * y[..., j]
    return torch.stack(parts, dim=-1)


def geometric_attention(
    q: Tensor, k: Tensor, v: Tensor, squared: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Attention of multivectors whose weights no motion of the scene changes, so that its output moves with the scene.

    A logit is the product of all components without e0, which a motion leaves as it is, less a squared distance.
    Source: GAI-NeRF, of which this project knows the abstract alone: geometric algebra for rays and objects, and global tokens. The
    form is reconstructed in projective geometric algebra; its invariant product and linear maps are those of geometric algebra
    transformers (arXiv 2305.18415).

    Args:
        q, k: `[B, H, N, C, 16]` and `[B, H, M, C, 16]`.
        v: `[B, H, M, D, 16]`.
        squared: `[B, H, N, M]`, squared distances of the tokens, scaled; None: none.
        mask: `[B, M] bool`, True for tokens that are there.

    Returns:
        `[B, H, N, D, 16]`.
    """
    match(q=(q, "B H N C 16"), k=(k, "B H M C 16"), v=(v, "B H M D 16"))
    euclidean = _euclidean(q.device)
    out = _attention(q[..., euclidean].flatten(-2), k[..., euclidean].flatten(-2), v.flatten(-2), squared, mask)
    return out.unflatten(-1, v.shape[-2:])


def naive_geometric_attention(
    q: Tensor, k: Tensor, v: Tensor, squared: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """`geometric_attention` token by token: the oracle of its tests."""
    kept = [blade for blade in range(BLADES) if not blade & 1]
    out = torch.zeros(*q.shape[:3], *v.shape[3:], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for n in range(q.shape[2]):
                there = [m for m in range(k.shape[2]) if mask is None or mask[b, m]]
                logits = []
                for m in there:
                    inner = sum((q[b, h, n, :, blade] * k[b, h, m, :, blade]).sum() for blade in kept)
                    logit = inner / (len(kept) * q.shape[3]) ** 0.5
                    logits.append(logit if squared is None else logit - squared[b, h, n, m])
                weights = torch.softmax(torch.stack(logits), dim=0)
                out[b, h, n] = sum(weight * v[b, h, m] for weight, m in zip(weights, there, strict=True))
    return out


class EquivariantLinear(nn.Module):
    """Mixes the channels of multivectors by maps that commute with every motion, and scalars with their scalar parts.

    Args:
        channels: multivectors in and out.
        scalars: numbers in and out.
    """

    def __init__(self, channels: tuple[int, int], scalars: tuple[int, int]) -> None:
        super().__init__()
        inputs, outputs = channels
        self.weight = nn.Parameter(torch.randn(outputs, inputs, MAPS) / (inputs * MAPS) ** 0.5)
        self.into = nn.Linear(scalars[0], outputs)
        self.out = nn.Linear(inputs + scalars[0], scalars[1])

    def forward(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """`[..., channels, 16]` and `[..., scalars]`, of in to out."""
        maps = _maps(x.dtype, x.device)  # [MAPS, 16, 16]
        whole = torch.einsum("oim,mab->iboa", self.weight, maps).flatten(0, 1).flatten(1)  # [16 in, 16 out]
        y = (x.flatten(-2) @ whole).unflatten(-1, (-1, BLADES))
        y = torch.cat([y[..., :1] + self.into(s).unsqueeze(-1), y[..., 1:]], dim=-1)
        return y, self.out(torch.cat([x[..., 0], s], dim=-1))


class GeometricBlock(nn.Module):
    """Attention, then a product of multivectors gated by a scalar; both with a residual connection.

    Global tokens are tokens whose multivectors are 0 and that are at no place: `located` is False for them.

    Args:
        channels: multivectors of a token.
        scalars: numbers of a token.
        heads: number of heads, which must divide both.
    """

    def __init__(self, *, channels: int, scalars: int, heads: int) -> None:
        super().__init__()
        if channels % heads or scalars % heads:
            raise ValueError(f"heads ({heads}) must divide channels ({channels}) and scalars ({scalars})")
        self.heads = heads
        self.qkv = EquivariantLinear((channels, 3 * channels), (scalars, 3 * scalars))
        self.mixed = EquivariantLinear((channels, channels), (scalars, scalars))
        self.near = nn.Parameter(torch.linspace(-4, 2, heads))
        self.through = nn.Parameter(torch.linspace(-2, 1, heads))
        self.factors = EquivariantLinear((channels, 2 * channels), (scalars, 2 * scalars))
        self.joined = EquivariantLinear((channels, channels), (scalars, scalars))

    def forward(
        self,
        x: Tensor,
        s: Tensor,
        places: Tensor,
        located: Tensor,
        mask: Tensor | None = None,
        *,
        keys: int | None = None,
        blocked: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The tokens after the block.

        Args:
            x: `[B, N, channels, 16]`, multivectors.
            s: `[B, N, scalars]`.
            places: `[B, N, 3]`, where tokens are.
            located: `[B, N] bool`, which tokens have a place; the others are near to all.
            mask: `[B, N] bool`, True for tokens that are there.
            keys: so many of the first tokens, K, are attended to; None: all. The others do not change each other.
            blocked: `[B, N, K]`, 0 or more, what is in the way between tokens; each head learns how much that lessens a weight.
        """
        near = _apart(places, located, keys), blocked
        moved_x, moved_s = self._attended(*normed(x, s), *near, mask if mask is None else mask[:, :keys])
        x, s = x + moved_x, s + moved_s
        factors, gates = self.factors(*normed(x, s))
        left, right = factors.chunk(2, dim=-2)
        plain, gate = gates.chunk(2, dim=-1)
        out, more = self.joined(product(left, right) * torch.sigmoid(gate.mean(-1))[..., None, None], F.gelu(plain))
        return x + out, s + more

    def _attended(
        self, x: Tensor, s: Tensor, apart: Tensor, blocked: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        both, numbers = self.qkv(x, s)
        parts = both.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4, 5)  # 3 x [B, H, N, C, 16]
        scalars = numbers.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x [B, H, N, S]
        keys, euclidean = apart.shape[2], _euclidean(x.device)
        # Scalars take part as the scalar components of further multivectors would.
        q, k = (torch.cat([parts[i][..., euclidean].flatten(-2), scalars[i]], dim=-1) for i in (0, 1))
        v = torch.cat([parts[2].flatten(-2), scalars[2]], dim=-1)
        less = F.softplus(self.near)[:, None, None] * apart.unsqueeze(1)
        if blocked is not None:
            less = less + F.softplus(self.through)[:, None, None] * blocked.unsqueeze(1)
        out = _attention(q, k[:, :, :keys], v[:, :, :keys], less, mask)
        moved, more = out.split([BLADES * parts.shape[4], scalars.shape[4]], dim=-1)
        moved = moved.unflatten(-1, (-1, BLADES)).transpose(1, 2).flatten(2, 3)
        return self.mixed(moved, more.transpose(1, 2).flatten(2))


def normed(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Multivectors over the root of their mean invariant square, scalars over their own."""
    size = x[..., _euclidean(x.device)].square().sum(-1).mean(-1)[..., None, None]
    return x / torch.sqrt(size + 1e-2), F.layer_norm(s, s.shape[-1:])


def _attention(q: Tensor, k: Tensor, v: Tensor, less: Tensor | None, mask: Tensor | None) -> Tensor:
    """Attention whose logits are lessened by `less` `[B, H, N, M]`, among the tokens in `mask` `[B, M]`."""
    bias = None if less is None else -less
    if mask is not None:
        absent = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.inf)[:, None, None]
        bias = absent if bias is None else bias + absent
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _apart(places: Tensor, located: Tensor, keys: int | None) -> Tensor:
    """Squared distances of tokens `[B, N]` from the first K, `[B, N, K]`; 0 where one of both is at no place."""
    # Not cdist: its square root has no gradient at 0.
    squared = (places.unsqueeze(2) - places[:, None, :keys]).square().sum(-1)
    return squared * (located.unsqueeze(2) & located[:, None, :keys])


def _filled(components: dict[int, Tensor]) -> Tensor:
    zero = torch.zeros_like(next(iter(components.values())))
    return torch.stack([components.get(blade, zero) for blade in range(BLADES)], dim=-1)


def _sign(i: int, j: int) -> int:
    """The sign of the product of two blades; 0 if e0 is in both."""
    if i & j & 1:
        return 0
    swaps = sum(((i >> bit) >> 1).bit_count() for bit in range(4) if j >> bit & 1)
    return -1 if swaps % 2 else 1


@cache
@torch.inference_mode(False)  # what is first needed for inference may be needed for training later
def _table(dtype: torch.dtype, device: torch.device) -> Tensor:
    table = torch.zeros(BLADES, BLADES, BLADES, dtype=dtype)
    for i in range(BLADES):
        for j in range(BLADES):
            table[i, j, i ^ j] = _sign(i, j)
    return table.to(device)


@cache
@torch.inference_mode(False)
def _maps(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The maps of `EquivariantLinear`, `[MAPS, 16, 16]`."""
    maps = torch.zeros(MAPS, BLADES, BLADES, dtype=dtype)
    for blade in range(BLADES):
        grade = blade.bit_count()
        maps[grade, blade, blade] = 1
        if not blade & 1:
            maps[5 + grade, blade | 1, blade] = _sign(1, blade)
    return maps.to(device)


@cache
@torch.inference_mode(False)
def _reversal(dtype: torch.dtype, device: torch.device) -> Tensor:
    grades = [blade.bit_count() for blade in range(BLADES)]
    return torch.tensor([(-1) ** (g * (g - 1) // 2) for g in grades], dtype=dtype, device=device)


@cache
@torch.inference_mode(False)
def _euclidean(device: torch.device) -> Tensor:
    return torch.tensor([blade for blade in range(BLADES) if not blade & 1], device=device)
