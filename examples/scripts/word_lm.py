"""A word language model in the idiom of PyTorch's example: an LSTM whose states are carried on, SGD, clipping."""

import argparse
import time

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--lr", type=float, default=5.0)
parser.add_argument("--bptt", type=int, default=20)
parser.add_argument("--clip", type=float, default=0.25)
parser.add_argument("--seed", type=int, default=1111)
args = parser.parse_args()
torch.manual_seed(args.seed)


class RNNModel(nn.Module):
    def __init__(self, ntoken, ninp=48, nhid=48, nlayers=2, dropout=0.2):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=dropout)
        self.decoder = nn.Linear(nhid, ntoken)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        self.nhid, self.nlayers, self.ntoken = nhid, nlayers, ntoken

    def forward(self, input, hidden):
        output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
        decoded = self.decoder(self.drop(output)).view(-1, self.ntoken)
        return nn.functional.log_softmax(decoded, dim=1), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        return weight.new_zeros(self.nlayers, bsz, self.nhid), weight.new_zeros(self.nlayers, bsz, self.nhid)


words = open(argparse.__file__).read().split()[:8000]
vocabulary = {w: i for i, w in enumerate(dict.fromkeys(words))}
ids = torch.tensor([vocabulary[w] for w in words])
data = ids[: len(ids) // 16 * 16].view(16, -1).t().contiguous()
model = RNNModel(len(vocabulary))
criterion = nn.NLLLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
for epoch in range(args.epochs):
    model.train()
    hidden, total_loss, start = model.init_hidden(16), 0.0, time.time()
    for batch, i in enumerate(range(0, data.size(0) - 1, args.bptt)):
        length = min(args.bptt, len(data) - 1 - i)
        source, targets = data[i : i + length], data[i + 1 : i + 1 + length].view(-1)
        hidden = tuple(h.detach() for h in hidden)
        output, hidden = model(source, hidden)
        loss = criterion(output, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        total_loss += loss.item()
        if batch % 10 == 9:
            print(f"| epoch {epoch} | {batch + 1:5d} batches | loss {total_loss / 10:5.2f}")
            total_loss = 0.0
