"""PPO in one file, in the idiom of cleanrl: an agent with actor and critic, roll-outs, epochs of minibatches."""

import argparse

import numpy as np
import torch
from torch import nn
from torch.distributions.categorical import Categorical


class Pole:
    """Poles to balance, all at once: four numbers seen, a push to the left or the right, a reward for a step up."""

    def __init__(self, count, rng):
        self.rng, self.state, self.age = rng, rng.uniform(-0.05, 0.05, (count, 4)), np.zeros(count)
        self.finished = []

    def step(self, action):
        x, v, a, w = self.state.T
        force = np.where(action == 1, 10.0, -10.0)
        push = (force + 0.05 * w**2 * np.sin(a)) / 1.1
        turn = (9.8 * np.sin(a) - np.cos(a) * push) / (0.5 * (4 / 3 - 0.1 * np.cos(a) ** 2 / 1.1))
        move = push - 0.05 * turn * np.cos(a) / 1.1
        self.state = np.stack([x + 0.02 * v, v + 0.02 * move, a + 0.02 * w, w + 0.02 * turn], axis=1)
        self.age += 1
        done = (abs(self.state[:, 0]) > 2.4) | (abs(self.state[:, 2]) > 0.2095) | (self.age >= 500)
        self.finished += self.age[done].tolist()
        self.state[done], self.age[done] = self.rng.uniform(-0.05, 0.05, (int(done.sum()), 4)), 0
        return self.state.astype(np.float32), np.ones(len(done), np.float32), done.astype(np.float32)


def layer_init(layer, std=np.sqrt(2), bias_const=0.0):
    torch.nn.init.orthogonal_(layer.weight, std)
    torch.nn.init.constant_(layer.bias, bias_const)
    return layer


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(
            layer_init(nn.Linear(4, 64)), nn.Tanh(), layer_init(nn.Linear(64, 64)), nn.Tanh(),
            layer_init(nn.Linear(64, 1), std=1.0),
        )  # fmt: skip
        self.actor = nn.Sequential(
            layer_init(nn.Linear(4, 64)), nn.Tanh(), layer_init(nn.Linear(64, 64)), nn.Tanh(),
            layer_init(nn.Linear(64, 2), std=0.01),
        )  # fmt: skip

    def get_value(self, x):
        return self.critic(x)

    def get_action_and_value(self, x, action=None):
        probs = Categorical(logits=self.actor(x))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


parser = argparse.ArgumentParser()
parser.add_argument("--updates", type=int, default=12)
parser.add_argument("--num-steps", type=int, default=64)
args = parser.parse_args()
torch.manual_seed(1)
envs = Pole(8, np.random.default_rng(1))
agent = Agent()
optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-3, eps=1e-5)
next_obs = torch.tensor(envs.state, dtype=torch.float32)
for update in range(1, args.updates + 1):
    optimizer.param_groups[0]["lr"] = (1 - (update - 1) / args.updates) * 2.5e-3
    obs, actions, logprobs, rewards, dones, values = [], [], [], [], [], []
    for _ in range(args.num_steps):
        with torch.no_grad():
            action, logprob, _, value = agent.get_action_and_value(next_obs)
        state, reward, done = envs.step(action.numpy())
        for kept, new in zip(
            (obs, actions, logprobs, values, rewards, dones),
            (next_obs, action, logprob, value.flatten(), torch.tensor(reward), torch.tensor(done)),
        ):
            kept.append(new)
        next_obs = torch.tensor(state)
    with torch.no_grad():
        last, advantages, following = 0.0, [], agent.get_value(next_obs).flatten()
        for t in reversed(range(args.num_steps)):
            alive = 1 - dones[t]
            delta = rewards[t] + 0.99 * following * alive - values[t]
            last = delta + 0.99 * 0.95 * alive * last
            advantages.insert(0, last)
            following = values[t]
    b_obs, b_actions, b_logprobs = torch.cat(obs), torch.cat(actions), torch.cat(logprobs)
    b_advantages = torch.cat(advantages)
    b_returns = b_advantages + torch.cat(values)
    for _ in range(4):
        for mb in torch.randperm(len(b_obs)).split(128):
            _, newlogprob, entropy, newvalue = agent.get_action_and_value(b_obs[mb], b_actions[mb])
            ratio = (newlogprob - b_logprobs[mb]).exp()
            adv = b_advantages[mb]
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
            pg_loss = torch.max(-adv * ratio, -adv * torch.clamp(ratio, 0.8, 1.2)).mean()
            v_loss = 0.5 * ((newvalue.view(-1) - b_returns[mb]) ** 2).mean()
            loss = pg_loss - 0.01 * entropy.mean() + 0.5 * v_loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
    recent = envs.finished[-20:]
    print(f"update={update}, episodic_return={sum(recent) / max(1, len(recent)):.1f}")
