"""What scikit-learn's `check_estimator` asks for, for arrays of shape (n_records, n_leads, n_samples)."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CODES
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from ecg.custom_transformers import AmplitudeLimit, BandPass, LeadStandardizer, LeadStatistics, TimeDerivative
from ecg.formats.wfdb import UV_PER_MV
from ecg.labels import make_splits
from ecg.models.layers import Frontend
from ecg.preprocessing import preprocess
from ecg.signals import load_signals

FS = 100
ALL = [
    BandPass(),
    AmplitudeLimit(0.5),
    TimeDerivative(),
    TimeDerivative(append=True),
    LeadStandardizer(),
    LeadStatistics(),
]
every_transformer = pytest.mark.parametrize("transformer", ALL, ids=str)


def records(n: int = 6, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 12, 300)).astype(dtype)


@every_transformer
def test_init_stores_its_arguments_unchanged_and_clone_forgets_the_fit(transformer):
    fitted = clone(transformer).fit(records())
    again = clone(fitted)
    assert again.get_params() == transformer.get_params()
    with pytest.raises(NotFittedError):
        again.transform(records())


@every_transformer
def test_fit_returns_itself_and_learned_names_end_in_underscore(transformer):
    fresh = clone(transformer)
    arguments = set(vars(fresh))
    assert fresh.fit(records()) is fresh
    learned = set(vars(fresh)) - arguments
    assert "n_leads_in_" in learned
    assert all(name.endswith("_") or name.startswith("_") for name in learned)


@every_transformer
def test_a_second_fit_forgets_the_first(transformer):
    twice = clone(transformer).fit(records(seed=1) * 7).fit(records())
    np.testing.assert_array_equal(twice.transform(records()), clone(transformer).fit_transform(records()))


@every_transformer
def test_transform_leaves_its_input_alone_and_keeps_the_float_type(transformer):
    for dtype in (np.float32, np.float64):
        x = records(dtype=dtype)
        before = x.copy()
        result = clone(transformer).fit(x).transform(x)
        np.testing.assert_array_equal(x, before)
        assert result.dtype == (np.float32 if isinstance(transformer, LeadStatistics) else dtype)


@every_transformer
def test_each_record_is_transformed_as_if_it_were_alone(transformer):
    fitted = clone(transformer).fit(records())
    together = fitted.transform(records())
    alone = np.concatenate([fitted.transform(x[None]) for x in records()])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


@every_transformer
@pytest.mark.parametrize("bad", [np.zeros((12, 300)), np.zeros((2, 11, 300)), np.full((2, 12, 300), np.nan)])
def test_wrong_shapes_and_nan_are_refused(transformer, bad):
    with pytest.raises(ValueError, match=r"shape|leads|NaN"):
        clone(transformer).fit(records()).transform(bad)


def test_band_pass_keeps_the_band_removes_the_rest_and_shifts_nothing():
    t = np.arange(10 * FS) / FS
    kept, drift, mains = np.sin(2 * np.pi * 8 * t), 3 * np.sin(2 * np.pi * 0.05 * t), np.sin(2 * np.pi * 49 * t)
    x = np.tile(kept + drift + mains, (1, 12, 1))
    result = BandPass().fit_transform(x)[0, 0]
    inner = slice(2 * FS, -2 * FS)
    assert np.abs(result - kept)[inner].max() < 0.02


def test_band_pass_edges_outside_the_nyquist_band_are_refused():
    with pytest.raises(ValueError, match="band"):
        BandPass(high=60).fit(records())


def test_limits_are_millivolts_and_spare_r_waves():
    x = np.zeros((1, 12, 1000), np.float32)
    x[:, :, ::100] = 3.0  # R waves of 3 mV once a second, as in hypertrophy
    x[0, 5, 50] = 20.0  # an artefact
    assert x[:, 0].max() > 5 * x[:, 0].std(), "a limit of five standard deviations would cut them"
    result = AmplitudeLimit(8.0).fit_transform(x)
    np.testing.assert_array_equal(np.delete(result, 50, axis=2), np.delete(x, 50, axis=2))
    assert result[0, 5, 50] == 8.0


def test_limits_spare_the_r_waves_of_records(ptbxl: Path, tmp_path: Path):
    """The same of records, real ones where they are at hand, preprocessed with the script's defaults."""
    data, artifacts = tmp_path / "data", tmp_path / "artifacts"
    data.mkdir()
    pd.read_csv(ptbxl / "ptbxl_database.csv", low_memory=False).head(400).to_csv(data / "ptbxl_database.csv")
    for name in ("scp_statements.csv", "records100"):
        (data / name).symlink_to(ptbxl / name)
    make_splits(data=data, artifacts=artifacts)
    settings = runpy.run_path(str(CODES / "03_preprocess.py"))["Settings"](data=data, artifacts=artifacts)
    preprocess(**vars(settings))
    signals = load_signals(artifacts).array
    assert len(signals) > 100
    largest = np.abs(signals).max(axis=(1, 2))
    assert (largest >= settings.limit_mv * UV_PER_MV).mean() < 0.01
    assert np.median(largest) > 1 * UV_PER_MV, "R waves are there"


def test_derivative_of_a_ramp_is_its_slope_in_millivolts_per_second():
    ramp = np.tile(np.arange(300) * 0.02, (1, 12, 1))  # 2 mV/s at 100 Hz
    np.testing.assert_allclose(TimeDerivative(fs=FS).fit_transform(ramp), 2.0, rtol=1e-9)
    both = TimeDerivative(fs=FS, append=True).fit_transform(ramp)
    assert both.shape == (1, 24, 300)
    np.testing.assert_array_equal(both[:, :12], ramp)


def test_standardised_training_leads_have_mean_0_and_deviation_1():
    x = records(50) * np.arange(1, 13)[:, None] + 3
    z = LeadStandardizer().fit_transform(x)
    np.testing.assert_allclose(z.mean(axis=(0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(axis=(0, 2)), 1, atol=1e-5)


def test_standardizer_learns_the_same_in_chunks_as_at_once():
    x = records(50) * np.arange(1, 13)[:, None] + 3
    chunks = LeadStandardizer()
    for part in np.array_split(x, 7):
        chunks.partial_fit(part)
    whole = LeadStandardizer().fit(x)
    np.testing.assert_allclose(chunks.mean_, whole.mean_, rtol=1e-6)
    np.testing.assert_allclose(chunks.scale_, whole.scale_, rtol=1e-6)


def test_a_flat_lead_stays_finite():
    x = records()
    x[:, 3] = 0
    for transformer in (LeadStandardizer(), LeadStatistics()):
        assert np.isfinite(transformer.fit_transform(x)).all()


def test_lead_statistics_are_named_and_in_lead_order():
    x = records()
    x[:, 7] += 100
    statistics = LeadStatistics().fit(x)
    table = dict(zip(statistics.get_feature_names_out(), statistics.transform(x)[0], strict=True))
    assert len(table) == 96
    assert table["lead7_max"] > 90 > table["lead6_max"]
    assert table["lead0_std"] == pytest.approx(x[0, 0].std(), rel=1e-5)


def test_the_networks_front_end_computes_what_the_transformers_compute():
    x = records()
    expected = make_pipeline(TimeDerivative(fs=FS, append=True), LeadStandardizer()).fit(x)
    scaler = expected[-1]
    front_end = Frontend(fs=FS, mean=list(scaler.mean_), std=list(scaler.scale_), derivatives=True)
    result = front_end(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(result, expected.transform(x), rtol=1e-4, atol=1e-5)


def test_a_record_that_ends_in_an_r_wave_is_not_bent():
    t = np.arange(10 * FS) / FS
    beats = sum(1.5 * np.exp(-(((t - peak) / 0.02) ** 2)) for peak in np.arange(0.5, 11, 0.95))
    x = np.tile(beats[: int(9.06 * FS)], (1, 12, 1))  # cut on the flank of the last beat
    long = BandPass().fit_transform(np.tile(beats, (1, 12, 1)))
    assert np.abs(BandPass().fit_transform(x) - long[..., : x.shape[-1]]).max() < 0.5
