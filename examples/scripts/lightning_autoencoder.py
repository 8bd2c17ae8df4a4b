"""An autoencoder in the idiom of Lightning's first example: the module's step calls encoder and decoder one by one.

Where Lightning is not installed a loop of the same shape stands in for its Trainer.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn, optim, utils

try:
    import lightning as L

    Module = L.LightningModule
except ImportError:
    L, Module = None, nn.Module

parser = argparse.ArgumentParser()
parser.add_argument("--max_epochs", type=int, default=3)
args = parser.parse_args()
torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))


class LitAutoEncoder(Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def training_step(self, batch, batch_idx):
        (x,) = batch
        z = self.encoder(x)
        loss = nn.functional.mse_loss(self.decoder(z), x)
        if L is not None:
            self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-3)


class LoopTrainer:
    def __init__(self, max_epochs):
        self.max_epochs = max_epochs

    def fit(self, model, loader):
        optimizer = model.configure_optimizers()
        for _ in range(self.max_epochs):
            for index, batch in enumerate(loader):

                def closure(batch=batch, index=index):
                    loss = model.training_step(batch, index)
                    optimizer.zero_grad()
                    loss.backward()
                    return loss

                optimizer.step(closure)


images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
train_loader = utils.data.DataLoader(utils.data.TensorDataset(images), batch_size=64, shuffle=True)
autoencoder = LitAutoEncoder(encoder, decoder)
if L is None:
    trainer = LoopTrainer(args.max_epochs)
    trainer.fit(autoencoder, train_loader)
else:
    trainer = L.Trainer(
        max_epochs=args.max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model=autoencoder, train_dataloaders=train_loader)
with torch.no_grad():
    print(f"train_loss {nn.functional.mse_loss(autoencoder.decoder(autoencoder.encoder(images)), images).item():.5f}")
