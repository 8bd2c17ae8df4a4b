"""Kipf and Welling's graph convolutions in the idiom of pygcn: own layers, one full graph, a few labels."""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.nn.parameter import Parameter

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--hidden", type=int, default=16)
args = parser.parse_args()
torch.manual_seed(args.seed)


class GraphConvolution(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = Parameter(torch.empty(in_features, out_features))
        self.bias = Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self):
        stdv = 1.0 / math.sqrt(self.weight.size(1))
        self.weight.data.uniform_(-stdv, stdv)
        self.bias.data.uniform_(-stdv, stdv)

    def forward(self, input, adj):
        return torch.spmm(adj, torch.mm(input, self.weight)) + self.bias


class GCN(nn.Module):
    def __init__(self, nfeat, nhid, nclass, dropout):
        super().__init__()
        self.gc1 = GraphConvolution(nfeat, nhid)
        self.gc2 = GraphConvolution(nhid, nclass)
        self.dropout = dropout

    def forward(self, x, adj):
        x = F.dropout(F.relu(self.gc1(x, adj)), self.dropout, training=self.training)
        return F.log_softmax(self.gc2(x, adj), dim=1)


def load_data(nodes=400, classes=4, words=60):
    """A graph whose neighbours mostly share a class, and sparse words that hint at it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (nodes,), generator=generator)
    same = (labels[:, None] == labels[None]).float()
    edges = (torch.rand(nodes, nodes, generator=generator) < 0.02 * same + 0.002).float()
    edges = ((edges + edges.t()) > 0).float() + torch.eye(nodes)
    adj = (edges / edges.sum(1, keepdim=True)).to_sparse()
    likely = torch.rand(classes, words, generator=generator) ** 4
    features = (torch.rand(nodes, words, generator=generator) < 0.5 * likely[labels]).float()
    return adj, features / features.sum(1, keepdim=True).clamp_min(1), labels


adj, features, labels = load_data()
idx_train, idx_val = torch.arange(80), torch.arange(80, 240)
model = GCN(features.shape[1], args.hidden, 4, 0.5)
optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
for epoch in range(args.epochs):
    model.train()
    optimizer.zero_grad()
    output = model(features, adj)
    loss_train = F.nll_loss(output[idx_train], labels[idx_train])
    loss_train.backward()
    optimizer.step()
    if epoch % 10 == 9:
        model.eval()
        loss_val = F.nll_loss(model(features, adj)[idx_val], labels[idx_val])
        print(f"Epoch: {epoch + 1:04d} loss_train: {loss_train.item():.4f} loss_val: {loss_val.item():.4f}")
