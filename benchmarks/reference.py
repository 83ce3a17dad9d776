"""The rival, written plainly: nanoGPT's published CPU recipe, as a program of its own.

4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps; GELU, LayerNorm and learned positions; AdamW
1e-3 with 100 steps of warm-up and a cosine to 1e-4, betas (0.9, 0.99), weight decay 0.1 on matrices, clipping at
1, no dropout, no biases. The recipe is that of https://github.com/karpathy/nanoGPT (its README's CPU command and
its character config); the code here is our own. Nothing is evaluated during training, which only helps it.

    python benchmarks/reference.py TEXT --tokens characters|bytes [--seconds S]

First 90% of the text trains, last 10% validates, all of it, in windows of 64. Prints one JSON line.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS, HEADS, WIDTH, CONTEXT, BATCH, STEPS = 4, 4, 128, 64, 12, 2000
PEAK, END, WARM_UP = 1e-3, 1e-4, 100


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            part.view(n, t, HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm_1(x)).split(WIDTH, 2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, WIDTH)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Model(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scaled = (
                    0.02 / math.sqrt(2 * LAYERS) if name.endswith(("out.weight", "down.weight")) else 0.02
                )
                nn.init.normal_(parameter, std=scaled)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def rate(share: float, warm_up: float) -> float:
    if share < warm_up:
        return PEAK * share / warm_up
    return END + (PEAK - END) * (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up))) / 2


@torch.no_grad()
def whole_loss(model: Model, ids: Tensor) -> float:
    total = count = 0.0
    whole = (len(ids) - 1) // CONTEXT * CONTEXT
    x, y = ids[:whole].view(-1, CONTEXT), ids[1 : whole + 1].view(-1, CONTEXT)
    for part_x, part_y in zip(x.split(256), y.split(256), strict=True):
        total += model(part_x, part_y).item() * part_y.numel()
        count += part_y.numel()
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", choices=("characters", "bytes"), default="characters")
    parser.add_argument("--seconds", type=float, help="train for this long instead of 2,000 steps")
    parser.add_argument("--seed", type=int, default=1337)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    text: str | bytes = asked.text.read_bytes()
    if asked.tokens == "characters":
        text = text.decode()
    symbols = sorted(set(text))
    index = {symbol: number for number, symbol in enumerate(symbols)}
    ids = torch.tensor([index[symbol] for symbol in text])
    cut = int(0.9 * len(ids))
    train, held_out = ids[:cut], ids[cut:]
    held_out_bytes = len(text[cut:].encode()) if isinstance(text, str) else len(text) - cut
    model = Model(len(symbols))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    gains = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}], betas=(0.9, 0.99)
    )
    began = time.perf_counter()
    step = 0
    while True:
        elapsed = time.perf_counter() - began
        share = step / STEPS if asked.seconds is None else elapsed / asked.seconds
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(share, WARM_UP / STEPS)
        starts = torch.randint(len(train) - CONTEXT, (BATCH,))
        x = torch.stack([train[i : i + CONTEXT] for i in starts])
        y = torch.stack([train[i + 1 : i + 1 + CONTEXT] for i in starts])
        loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    seconds = time.perf_counter() - began
    nats = whole_loss(model, held_out)
    bits_per_byte = nats * len(held_out) / math.log(2) / held_out_bytes
    print(json.dumps({
        "steps": step, "train_seconds": round(seconds, 2), "nats": nats, "bits_per_byte": bits_per_byte,
        "parameters": sum(p.numel() for p in model.parameters()), "threads": torch.get_num_threads(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
