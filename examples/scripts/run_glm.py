"""Classification in the idiom of transformers' examples, on a small model from its config: Trainer, warm-up.

Trainer needs accelerate; where that is not installed a loop of the same shape stands in for it.
"""

import argparse
import importlib.util
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

parser = argparse.ArgumentParser()
parser.add_argument("--max_steps", type=int, default=30)
parser.add_argument("--learning_rate", type=float, default=5e-4)
parser.add_argument("--seed", type=int, default=42)
args = parser.parse_args()
set_seed(args.seed)


class Sentences(torch.utils.data.Dataset):
    """Sequences of words, half of which hold a word twice; the label says which."""

    def __init__(self, count):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.stack([torch.randperm(30, generator=generator)[:12] + 5 for _ in range(count)])
        self.labels = torch.randint(2, (count,), generator=generator)
        self.ids[self.labels == 1, 7] = self.ids[self.labels == 1, 2]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "attention_mask": torch.ones_like(self.ids[i]), "labels": self.labels[i]}


config = BertConfig(
    vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=2,
    max_position_embeddings=16,
)  # fmt: skip
model = BertForSequenceClassification(config)
train_dataset = Sentences(512)
if importlib.util.find_spec("accelerate"):
    with tempfile.TemporaryDirectory() as folder:
        training_args = TrainingArguments(
            output_dir=folder, max_steps=args.max_steps, learning_rate=args.learning_rate, warmup_steps=5,
            per_device_train_batch_size=32, logging_steps=10, report_to=[], save_strategy="no", use_cpu=True,
            seed=args.seed, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model=model, args=training_args, train_dataset=train_dataset)
        result = trainer.train()
    print(f"train_loss {result.training_loss:.4f}")
else:
    loader = torch.utils.data.DataLoader(train_dataset, batch_size=32, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
    model.train()
    step = 0
    while step < args.max_steps:
        for inputs in loader:
            loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            model.zero_grad()
            step += 1
            if step % 10 == 0:
                print(f"step {step} train_loss {loss.item():.4f}")
            if step >= args.max_steps:
                break
