"""SIREN fits an image: sines with a frequency of 30, coordinates in, grey values out, the whole image as one batch."""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--total_steps", type=int, default=200)
args = parser.parse_args()
torch.manual_seed(0)


class SineLayer(nn.Module):
    def __init__(self, in_features, out_features, is_first=False, omega_0=30):
        super().__init__()
        self.omega_0 = omega_0
        self.linear = nn.Linear(in_features, out_features)
        with torch.no_grad():
            bound = 1 / in_features if is_first else np.sqrt(6 / in_features) / omega_0
            self.linear.weight.uniform_(-bound, bound)

    def forward(self, input):
        return torch.sin(self.omega_0 * self.linear(input))


class Siren(nn.Module):
    def __init__(self, in_features=2, hidden_features=64, hidden_layers=3, out_features=1):
        super().__init__()
        layers = [SineLayer(in_features, hidden_features, is_first=True)]
        layers += [SineLayer(hidden_features, hidden_features) for _ in range(hidden_layers)]
        final = nn.Linear(hidden_features, out_features)
        with torch.no_grad():
            bound = np.sqrt(6 / hidden_features) / 30
            final.weight.uniform_(-bound, bound)
        self.net = nn.Sequential(*layers, final)

    def forward(self, coords):
        coords = coords.clone().detach().requires_grad_(True)
        return self.net(coords), coords


digits = (
    torch.tensor(load_digits().images[:16], dtype=torch.float32).view(4, 4, 8, 8).permute(0, 2, 1, 3).reshape(32, 32)
)
ground_truth = (digits / 8 - 1).reshape(1, -1, 1)
axis = torch.linspace(-1, 1, 32)
model_input = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(1, -1, 2)
img_siren = Siren()
optim = torch.optim.Adam(lr=1e-4, params=img_siren.parameters())
for step in range(args.total_steps):
    model_output, coords = img_siren(model_input)
    loss = ((model_output - ground_truth) ** 2).mean()
    if not step % 50:
        print(f"Step {step}, Total loss {loss:0.6f}")
    optim.zero_grad()
    loss.backward()
    optim.step()
print(f"Step {args.total_steps}, Total loss {loss:0.6f}")
