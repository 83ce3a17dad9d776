"""A rival: Hugging Face's ``Trainer`` with a GPT-2 configuration of a planned run's size and its own default settings.

    python benchmarks/trainer_rival.py TEXT --seconds S

The tokenizer is the one steepest makes of the text (first 90% trains, last 10% is held out, as in ``reference.py``);
AdamW at the Trainer's default rate of 5e-5 with its linear decay, batches of 8 sequences of 256 tokens. The number of
steps that the time buys is measured on twenty steps first. Prints one JSON line, with bits per byte of the held-out text.
"""

import argparse
import json
import math
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from steepest.data import DataConfig, prepare_corpus
from steepest.tokenizer import Tokenizer, TokenizerConfig

CONTEXT, ROWS = 256, 8


def windows(tokens: torch.Tensor) -> TensorDataset:
    whole = len(tokens) // CONTEXT * CONTEXT
    return TensorDataset(tokens[:whole].view(-1, CONTEXT))


def collate(rows: list[tuple[torch.Tensor]]) -> dict[str, torch.Tensor]:
    ids = torch.stack([row[0] for row in rows])
    return {"input_ids": ids, "labels": ids}


def train(model: GPT2LMHeadModel, data: TensorDataset, steps: int, seed: int, folder: str) -> float:
    arguments = TrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=ROWS, save_strategy="no", report_to=[],
        logging_strategy="no", seed=seed, use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
    )  # fmt: skip
    began = time.perf_counter()
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate).train()
    return time.perf_counter() - began


@torch.no_grad()
def held_out_nats(model: GPT2LMHeadModel, tokens: torch.Tensor, end: int) -> float:
    """Every held-out token predicted once, the first from an end of text."""
    shifted = torch.cat([torch.tensor([end]), tokens])
    total = 0.0
    for at in range(0, len(tokens), CONTEXT):
        ids = shifted[at : at + CONTEXT][None]
        targets = tokens[at : at + CONTEXT]
        logits = model(input_ids=ids[:, : len(targets)]).logits[0]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began = time.perf_counter()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_corpus(
            DataConfig(sources=[str(asked.text)], validation=0.1, split="position"),
            TokenizerConfig(vocab_limit=4096), Path(folder),
        )  # fmt: skip
        tokenizer = Tokenizer.load(corpus.tokenizer)
        config = GPT2Config(vocab_size=corpus.vocab_size, n_positions=CONTEXT, n_embd=asked.width, n_layer=asked.layers,
                            n_head=max(1, asked.width // 64), bos_token_id=0, eos_token_id=0)  # fmt: skip
        torch.manual_seed(asked.seed)
        data = windows(torch.from_numpy(corpus.train.tokens.astype("int64")))
        pace = train(GPT2LMHeadModel(config), data, 20, asked.seed, folder) / 20
        held_out = torch.from_numpy(corpus.validation.tokens.astype("int64"))
        reserve = 0.04 * asked.seconds
        steps = max(1, int((asked.seconds - reserve - (time.perf_counter() - began)) / pace))
        model = GPT2LMHeadModel(config)
        train(model, data, steps, asked.seed, folder)
        model.eval()
        nats = held_out_nats(model, held_out, tokenizer.end_of_text)
        print(json.dumps({
            "steps": steps, "parameters": sum(p.numel() for p in model.parameters()), "nats": nats / len(held_out),
            "bits_per_byte": nats / math.log(2) / corpus.validation.n_bytes,
        }))  # fmt: skip


if __name__ == "__main__":
    main()
