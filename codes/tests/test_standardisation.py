"""Standardisation, from the training records to the channels that a network sees."""

import numpy as np
import pytest
import torch
from conftest import META

from ecg.custom_transformers import LeadStandardizer, TimeDerivative
from ecg.labels import read_records
from ecg.models import MODELS, build
from ecg.models.layers import Frontend
from ecg.signals import load_signals


def training_records(artifacts) -> np.ndarray:
    """Return all training records, (n, n_leads, n_samples) mV, whether or not they have a class."""
    records = read_records(artifacts)
    return load_signals(artifacts).millivolt(records.ecg_id[records.split == "train"].to_numpy())


def test_the_stored_mean_and_deviation_are_those_of_each_lead_of_the_training_records(prepared):
    meta = load_signals(prepared).meta
    millivolt = training_records(prepared).astype(np.float64)
    derivative = np.gradient(millivolt, 1 / meta["fs"], axis=-1)
    for kind, values in (("signal", millivolt), ("derivative", derivative)):
        deviation = values.std(axis=(0, 2))
        np.testing.assert_allclose(meta["mean"][kind], values.mean(axis=(0, 2)), atol=1e-3 * deviation.min())
        np.testing.assert_allclose(meta["std"][kind], deviation, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_sees_training_records_with_mean_0_and_deviation_1_in_every_channel(prepared, name):
    network = build(name, load_signals(prepared).meta, n_classes=3)
    channels = network.frontend(torch.from_numpy(training_records(prepared)))
    assert channels.shape[1] == 24
    torch.testing.assert_close(channels.mean(dim=(0, 2)), torch.zeros(24), rtol=0, atol=1e-3)
    torch.testing.assert_close(channels.std(dim=(0, 2)), torch.ones(24), rtol=0, atol=1e-3)


@pytest.mark.parametrize("derivatives", [False, True])
def test_each_channel_has_its_own_mean_and_deviation_leads_before_derivatives(derivatives):
    numbers = np.arange(1.0, 13.0)
    meta = META | {
        "mean": {"signal": list(numbers), "derivative": list(100 * numbers)},
        "std": {"signal": list(2 * numbers), "derivative": list(3 * numbers)},
    }
    network = build("resnet1d", meta, n_classes=3, derivatives=derivatives)
    x = torch.randn(2, 12, 250)
    leads = (x - torch.tensor(numbers)[:, None]) / torch.tensor(2 * numbers)[:, None]
    channels = network.frontend(x)
    assert network.n_leads == 12 and channels.shape[1] == (24 if derivatives else 12)
    torch.testing.assert_close(channels[:, :12], leads.float())
    if derivatives:
        slope = np.gradient(x.numpy(), 0.01, axis=-1)
        expected = (slope - 100 * numbers[:, None]) / (3 * numbers[:, None])
        torch.testing.assert_close(channels[:, 12:], torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-3)


def test_the_front_end_computes_what_the_transformers_compute():
    x = np.random.default_rng(0).normal(0.3, 2.0, (5, 12, 300)).astype(np.float32)
    both = TimeDerivative(fs=500, append=True).fit_transform(x)
    scaler = LeadStandardizer().fit(both)
    frontend = Frontend(fs=500, mean=scaler.mean_.tolist(), std=scaler.scale_.tolist(), derivatives=True)
    found = frontend(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, scaler.transform(both), atol=1e-4)


def test_the_standardiser_learns_mean_and_population_deviation_of_each_lead():
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 100)) * np.arange(1, 6)[:, None]
    scaler = LeadStandardizer().fit(x)
    np.testing.assert_allclose(scaler.mean_, x.mean(axis=(0, 2)))
    np.testing.assert_allclose(scaler.scale_, x.std(axis=(0, 2)))
    np.testing.assert_allclose(scaler.transform(x) * scaler.scale_[:, None] + scaler.mean_[:, None], x)


def test_chunks_of_any_size_teach_the_standardiser_the_same_as_all_records_at_once():
    x = np.random.default_rng(0).normal(1.0, 2.0, (10, 3, 50))
    whole = LeadStandardizer().fit(x)
    merged = LeadStandardizer()
    for chunk in (x[:1], x[1:7], x[7:]):
        merged.merge(LeadStandardizer().fit(chunk))
    np.testing.assert_allclose(merged.mean_, whole.mean_)
    np.testing.assert_allclose(merged.scale_, whole.scale_)
