"""Variational autoencoder: the networks of `models.autoencoder`, with a distribution as code.

Kingma and Welling 2014. The last layer of the encoder is doubled: one gives the mean, the other the
logarithm of the variance. The embedding of an image is the mean; nothing is cut at zero, as the
code's prior is a standard normal distribution.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder, AutoencoderConfig

LOG_VARIANCE_BOUND = 10.0
"""Log variances are cut at plus and minus this, so that one early step cannot overflow."""


class VariationalAutoencoder(Autoencoder):
    """An autoencoder whose code is a normal distribution.

    Parameters
    ----------
    config : AutoencoderConfig
        Its ``latent_activation`` is not used: a mean may be negative.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(dataclasses.replace(config, latent_activation="linear"))
        self.to_log_variance = nn.Linear(config.dense_dim, config.latent_dim)
        nn.init.zeros_(self.to_log_variance.weight)  # begins at variance 1, the prior's
        nn.init.zeros_(self.to_log_variance.bias)

    def distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the code of images, each (n, latent_dim)."""
        code = self.encoder_stages(images).flatten(1)
        dense, to_mean = self.to_latent[0], self.to_latent[1]
        hidden = dense(code)
        spread = self.to_log_variance(hidden).clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        return to_mean(hidden), spread

    @staticmethod
    def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
        """Draw codes, (n, latent_dim), from torch's global random generator."""
        return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of codes from the standard normal distribution, (n,), in nats."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
