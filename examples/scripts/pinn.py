"""A physics-informed net for Burgers' equation: Adam, then L-BFGS; derivatives of the net in the loss."""

import argparse
import math
from itertools import pairwise

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--adam", type=int, default=150)
parser.add_argument("--lbfgs", type=int, default=3)
args = parser.parse_args()
torch.manual_seed(1234)


class DNN(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(layers)])
        for linear in self.linears:
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x):
        for linear in self.linears[:-1]:
            x = torch.tanh(linear(x))
        return self.linears[-1](x)


class PhysicsInformedNN:
    def __init__(self):
        self.dnn = DNN([2, 32, 32, 32, 32, 1])
        self.x_f, self.t_f = (torch.rand(512, 1) * 2 - 1).requires_grad_(), torch.rand(512, 1).requires_grad_()
        self.x_u = torch.rand(128, 1) * 2 - 1
        self.optimizer_adam = torch.optim.Adam(self.dnn.parameters(), lr=2e-3)
        self.optimizer = torch.optim.LBFGS(self.dnn.parameters(), max_iter=10, history_size=10)

    def net_u(self, x, t):
        return self.dnn(torch.cat([x, t], dim=1))

    def net_f(self, x, t):
        u = self.net_u(x, t)
        u_t, u_x = torch.autograd.grad(u.sum(), (t, x), create_graph=True)
        (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        return u_t + u * u_x - 0.01 / math.pi * u_xx

    def loss(self):
        start = self.net_u(self.x_u, torch.zeros_like(self.x_u)) + torch.sin(math.pi * self.x_u)
        edge = torch.ones_like(self.t_f)
        sides = self.net_u(edge, self.t_f) ** 2 + self.net_u(-edge, self.t_f) ** 2
        return (start**2).mean() + sides.mean() + (self.net_f(self.x_f, self.t_f) ** 2).mean()

    def loss_func(self):
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def train(self):
        for it in range(args.adam):
            self.optimizer_adam.zero_grad()
            loss = self.loss()
            loss.backward()
            self.optimizer_adam.step()
            if it % 50 == 0:
                print(f"It: {it}, Loss: {loss.item():.5e}")
        for it in range(args.lbfgs):
            loss = self.optimizer.step(self.loss_func)
            print(f"L-BFGS: {it}, Loss: {loss.item():.5e}")


PhysicsInformedNN().train()
