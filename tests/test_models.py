"""Models: shapes, bottlenecks, losses and penalties, each against its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edgeae.bundle.manifest import Layout
from edgeae.bundle.strict import from_plain, to_plain
from edgeae.models import Autoencoder, ModelConfig, Objective, ObjectiveConfig
from edgeae.models.config import LossName, Upsample
from edgeae.models.layers import TopK
from edgeae.models.losses import corrupt, gaussian_kl, rate_kl, ssim, weight_penalty

DENSE = ModelConfig(input_shape=(12,), layout="vector", latent_dim=3, hidden=(8, 5))
CONVOLUTIONAL = ModelConfig(input_shape=(9, 14), layout="HW", latent_dim=4, architecture="convolutional", hidden=(3, 5))
MODELS = {
    "dense": DENSE,
    "shallow image": ModelConfig(input_shape=(4, 6), layout="HW", latent_dim=5, output_activation="sigmoid"),
    "dense HWC": ModelConfig(input_shape=(4, 6, 3), layout="HWC", latent_dim=5, hidden=(7,)),
    "dense windows": ModelConfig(input_shape=(10, 3), layout="TC", latent_dim=5, hidden=(7,)),
    "k-sparse": replace(DENSE, bottleneck="sparse", sparsity="topk", latent_dim=20, active_units=4),
    "variational": replace(DENSE, bottleneck="variational", latent_activation="linear"),
    "convolutional": CONVOLUTIONAL,
    "convolutional CHW": replace(CONVOLUTIONAL, input_shape=(3, 9, 14), layout="CHW", batch_norm=True),
    "convolutional HWC": replace(CONVOLUTIONAL, input_shape=(9, 14, 2), layout="HWC", dropout=0.2),
    "convolutional windows": replace(CONVOLUTIONAL, input_shape=(21, 3), layout="TC", upsample="resize"),
    "convolutional variational": replace(CONVOLUTIONAL, bottleneck="variational"),
    "mlperf-tiny-ad": ModelConfig(
        input_shape=(640,), layout="vector", latent_dim=8, hidden=(128, 128, 128, 128), batch_norm=True
    ),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_and_returns_rows_and_has_a_flat_latent(name: str) -> None:
    config = MODELS[name]
    model = Autoencoder(config).eval()
    x = torch.rand(5, *config.input_shape)
    z = model.encode(x)
    assert z.shape == (5, config.latent_dim)
    assert model.decoder(z).shape == x.shape
    assert model(x).shape == x.shape
    assert torch.equal(model(x), model(x))
    if config.output_activation == "sigmoid":
        assert bool((model(x) > 0).all()) and bool((model(x) < 1).all())
    # one row alone gives what it gives among others
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_of_every_model_is_trained(name: str) -> None:
    model = Autoencoder(MODELS[name])
    loss, _ = Objective(model, ObjectiveConfig(beta=1.0))(torch.rand(32, *MODELS[name].input_shape))
    loss.backward()
    for parameter, tensor in model.named_parameters():
        # batch norm removes what the bias before it adds
        if not MODELS[name].batch_norm:
            assert tensor.grad is not None and bool(tensor.grad.abs().sum() > 0), parameter


@given(
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    channels=st.integers(1, 4),
    stages=st.integers(1, 4),
    layout=st.sampled_from(["HW", "CHW", "HWC", "TC"]),
    upsample=st.sampled_from(["transposed", "resize"]),
)
@settings(max_examples=60, deadline=None)
def test_convolutions_return_any_size_of_image(
    height: int, width: int, channels: int, stages: int, layout: Layout, upsample: Upsample
) -> None:
    shapes = {
        "HW": (height, width),
        "CHW": (channels, height, width),
        "HWC": (height, width, channels),
        "TC": (height, channels),
    }
    config = ModelConfig(
        input_shape=shapes[layout],
        layout=layout,
        latent_dim=2,
        architecture="convolutional",
        hidden=(2,) * stages,
        upsample=upsample,
    )
    x = torch.rand(2, *config.input_shape)
    assert Autoencoder(config)(x).shape == x.shape


def test_channels_last_computes_what_channels_first_does() -> None:
    first = Autoencoder(replace(CONVOLUTIONAL, input_shape=(3, 9, 14), layout="CHW"))
    last = Autoencoder(replace(CONVOLUTIONAL, input_shape=(9, 14, 3), layout="HWC"))
    for mine, theirs in zip(last.parameters(), first.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    x = torch.rand(2, 3, 9, 14)
    torch.testing.assert_close(last(x.permute(0, 2, 3, 1)), first(x).permute(0, 2, 3, 1))


def test_the_mlperf_tiny_network_is_the_published_one() -> None:
    model = Autoencoder(MODELS["mlperf-tiny-ad"])
    widths = [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert widths == [128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    # 264,192 weights, 2 x 1032 batch norm parameters: as in the reference implementation, biases included
    assert sum(parameter.numel() for parameter in model.parameters()) == 267_928
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()) == 9


def test_weights_are_glorot_uniform_and_biases_zero() -> None:
    model = Autoencoder(ModelConfig(input_shape=(300,), layout="vector", latent_dim=200))
    layer = next(layer for layer in model.encoder if isinstance(layer, nn.Linear))
    bound = math.sqrt(6 / (300 + 200))
    assert 0.98 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not layer.bias.any()


def test_a_configuration_survives_json_and_describes_itself() -> None:
    for config in MODELS.values():
        assert from_plain(ModelConfig, to_plain(config), where="test") == config
    assert MODELS["dense"].describe() == "dense 12-8-5-3-5-8-12, relu latent, linear output"
    assert MODELS["k-sparse"].describe().endswith("relu latent, 4 of 20 active, linear output")
    assert MODELS["variational"].describe().endswith("gaussian latent, linear output")
    assert MODELS["convolutional CHW"].describe() == (
        "convolutional 3x9x14 (CHW), 3, 5 channels, 4 latent, relu latent, batch norm, linear output"
    )


@given(st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_top_k_keeps_the_largest(active: int, rows: int) -> None:
    z = torch.randn(rows, 9, requires_grad=True)
    kept = TopK(active)(z)
    assert ((kept != 0).sum(dim=1) == active).all()
    for row, result in zip(z.detach().numpy(), kept.detach().numpy(), strict=True):
        largest = np.sort(row)[::-1][:active]
        assert sorted(result[result != 0]) == sorted(largest)
    (gradient,) = torch.autograd.grad(kept.sum(), z)
    assert torch.equal(gradient, (kept != 0).float())


def test_top_k_keeps_ties() -> None:
    assert TopK(2)(torch.tensor([[1.0, 5.0, 1.0, 0.0]])).tolist() == [[1.0, 5.0, 1.0, 0.0]]


def test_a_variational_latent_is_its_mean_and_its_variance_is_bounded() -> None:
    model = Autoencoder(MODELS["variational"])
    mean, log_variance = model.encoder(torch.randn(4, 12) * 1e6)
    assert torch.equal(model.encode(torch.zeros(1, 12)), model.encoder(torch.zeros(1, 12))[0])
    assert mean.shape == log_variance.shape == (4, 3)
    assert float(log_variance.detach().abs().max()) <= 10


def _ssim_by_definition(x: np.ndarray, y: np.ndarray, span: float, window: int) -> float:
    """Wang et al., equations 13 to 16, position by position in float64."""
    ramp = np.exp(-((np.arange(window) - window // 2) ** 2) / (2 * 1.5**2))
    weights = np.outer(ramp, ramp) / np.outer(ramp, ramp).sum()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    values = []
    for top in range(x.shape[0] - window + 1):
        for left in range(x.shape[1] - window + 1):
            a, b = (image[top : top + window, left : left + window] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width", "window"), [(14, 17, 11), (11, 11, 11), (8, 20, 7), (5, 5, 5), (3, 4, 3)])
def test_ssim_is_the_paper_s(height: int, width: int, window: int) -> None:
    x, y = torch.rand(2, height, width), torch.rand(2, height, width)
    expected = [
        _ssim_by_definition(a, b, 2.0, window) for a, b in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(x, y, span=2.0).numpy(), expected, rtol=2e-4, atol=1e-5)


def test_ssim_averages_channels_in_both_layouts() -> None:
    x, y = torch.rand(2, 3, 12, 13), torch.rand(2, 3, 12, 13)
    single = torch.stack([ssim(x[:, channel], y[:, channel]) for channel in range(3)]).mean(dim=0)
    torch.testing.assert_close(ssim(x, y, layout="CHW"), single)
    torch.testing.assert_close(ssim(x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1), layout="HWC"), single)


def test_gaussian_noise_has_its_spread_and_is_clipped_on_request() -> None:
    x = torch.full((200, 100), 0.5)
    noisy = corrupt(x, "gaussian", 0.3, low=0.0, high=1.0, clip=False)
    assert float((noisy - x).std()) == pytest.approx(0.3, rel=0.02)
    assert float((noisy - x).mean()) == pytest.approx(0.0, abs=0.01)
    clipped = corrupt(x, "gaussian", 0.3, low=0.0, high=1.0, clip=True)
    assert float(clipped.min()) == 0 and float(clipped.max()) == 1


def test_salt_and_pepper_and_masking_hit_their_share() -> None:
    x = torch.full((200, 100), 0.5)
    salted = corrupt(x, "salt_and_pepper", 0.2, low=-1.0, high=2.0, clip=True)
    assert float((salted == -1).float().mean()) == pytest.approx(0.1, rel=0.1)
    assert float((salted == 2).float().mean()) == pytest.approx(0.1, rel=0.1)
    assert float((salted == 0.5).float().mean()) == pytest.approx(0.8, rel=0.02)
    masked = corrupt(x, "masking", 0.3, low=-1.0, high=2.0, clip=True)
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, rel=0.05)
    assert torch.equal(corrupt(x, "none", 0.5, low=0.0, high=1.0, clip=True), x)


def test_divergences_are_those_of_torch_distributions() -> None:
    mean, log_variance = torch.randn(6, 4), torch.randn(6, 4)
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    prior = torch.distributions.Normal(torch.zeros(6, 4), torch.ones(6, 4))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(dim=1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)
    activation = torch.rand(50, 7)
    target = torch.distributions.Bernoulli(torch.full((7,), 0.2))
    rates = torch.distributions.Bernoulli(activation.mean(dim=0))
    torch.testing.assert_close(rate_kl(activation, 0.2), torch.distributions.kl_divergence(target, rates).mean())
    assert math.isfinite(float(rate_kl(torch.zeros(3, 2), 0.2)))


def test_weight_penalties_are_explicit_sums_without_biases() -> None:
    linear, convolution = nn.Linear(4, 3), nn.Conv1d(3, 2, 3)
    model = nn.Sequential(linear, nn.BatchNorm1d(3), convolution)
    weights = torch.cat([linear.weight.flatten(), convolution.weight.flatten()])
    torch.testing.assert_close(weight_penalty(model, 0.1, 0.0), 0.1 * weights.abs().sum())
    torch.testing.assert_close(weight_penalty(model, 0.1, 0.2), 0.1 * weights.abs().sum() + 0.2 * (weights**2).sum())


def _by_definition(loss: LossName, x_hat: Tensor, x: Tensor) -> Tensor:
    if loss == "ssim":
        return 1 - ssim(x_hat, x).mean()
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mse": functional.mse_loss,
        "bce": functional.binary_cross_entropy,
        "mae": functional.l1_loss,
        "huber": functional.huber_loss,
    }
    return functions[loss](x_hat, x)


@pytest.mark.parametrize("loss", ["mse", "bce", "mae", "huber", "ssim"])
def test_reconstruction_losses_are_means_over_values(loss: LossName) -> None:
    model = Autoencoder(MODELS["shallow image"])
    x = torch.rand(6, 4, 6)
    total, reconstruction = Objective(model, ObjectiveConfig(loss=loss))(x)
    assert torch.equal(total, reconstruction)
    torch.testing.assert_close(reconstruction, _by_definition(loss, model(x), x).detach())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ObjectiveConfig(l1=0.5), lambda model, z: 0.5 * sum(w.abs().sum() for w in _weights(model))),
        (ObjectiveConfig(l2=0.5), lambda model, z: 0.5 * sum(w.square().sum() for w in _weights(model))),
        (ObjectiveConfig(activity_l1=0.5), lambda model, z: 0.5 * z.abs().mean()),
        (ObjectiveConfig(activity_l2=0.5), lambda model, z: 0.5 * z.square().mean()),
        (ObjectiveConfig(sparsity="l1", sparsity_weight=0.5), lambda model, z: 0.5 * z.abs().mean()),
        (
            ObjectiveConfig(sparsity="kl", sparsity_weight=0.5, sparsity_target=0.1),
            lambda model, z: 0.5 * rate_kl(z, 0.1),
        ),
    ],
    ids=["l1", "l2", "activity_l1", "activity_l2", "sparsity l1", "sparsity kl"],
)
def test_penalties_are_added_to_the_reconstruction(
    config: ObjectiveConfig, expected: Callable[[Autoencoder, Tensor], Tensor]
) -> None:
    model = Autoencoder(replace(DENSE, latent_activation="sigmoid"))
    x = torch.randn(9, 12)
    loss, reconstruction = Objective(model, config)(x)
    torch.testing.assert_close(loss - reconstruction, expected(model, model.encode(x)), rtol=1e-4, atol=1e-6)


def _weights(model: nn.Module) -> list[Tensor]:
    return [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(("loss", "scale"), [("mse", 2.0), ("huber", 2.0), ("mae", 1.0), ("bce", None)])
def test_the_divergence_is_weighted_as_the_evidence_lower_bound_has_it(loss: LossName, scale: float | None) -> None:
    config = replace(MODELS["variational"], output_activation="sigmoid")
    model, x = Autoencoder(config), torch.rand(8, 12)
    objective = Objective(model, ObjectiveConfig(loss=loss, beta=3.0, beta_warmup=1.0))
    total, reconstruction = objective(x, 0.5)
    divergence = gaussian_kl(*model.encoder(x)).mean() / 12
    factor = 1.0 if scale is None else scale * float(reconstruction)
    torch.testing.assert_close(total - reconstruction, 0.5 * 3.0 * factor * divergence, rtol=1e-4, atol=1e-6)
    cold, reconstruction = objective(x, 0.0)
    torch.testing.assert_close(cold, reconstruction)


def test_a_variational_model_samples_in_its_objective_only() -> None:
    model = Autoencoder(MODELS["variational"]).eval()
    objective, x = Objective(model, ObjectiveConfig(beta=1.0)), torch.rand(8, 12)
    assert float(objective(x)[1]) != float(objective(x)[1])
    assert torch.equal(model(x), model(x))


def test_corruption_reaches_the_encoder_and_not_the_target() -> None:
    model = Autoencoder(DENSE)
    x = torch.randn(8, 12)
    masked = Objective(model, ObjectiveConfig(noise="masking", noise_level=1.0))(x)[1]
    torch.testing.assert_close(masked, functional.mse_loss(model(torch.zeros_like(x)), x).detach())
