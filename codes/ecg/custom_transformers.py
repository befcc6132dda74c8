"""scikit-learn style transformers for ECGs of shape (n_records, n_leads, n_samples).

They follow scikit-learn's conventions: `__init__` only stores its arguments, what `fit` learns ends in an
underscore, `fit` forgets the previous fit, `transform` changes nothing it was given. Signals are in millivolts.
"""

import numpy as np
from scipy import signal, stats
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted


def check_signals(x: np.ndarray, *, n_leads: int | None = None) -> np.ndarray:
    """Return `x` as a float array of shape (n_records, n_leads, n_samples); raise ValueError if it is not one."""
    x = np.asarray(x)
    if x.ndim != 3:
        raise ValueError(f"expected signals of shape (n_records, n_leads, n_samples), got {x.shape}")
    if n_leads is not None and x.shape[1] != n_leads:
        raise ValueError(f"fitted on {n_leads} leads, got {x.shape[1]}")
    x = x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError("signals contain NaN or infinity")
    return x


class _SignalTransformer(TransformerMixin, BaseEstimator):
    """What all transformers here share: `fit` learns the number of leads, and subclasses what else they need."""

    def fit(self, x: np.ndarray, y=None):
        x = check_signals(x)
        self.n_leads_in_ = x.shape[1]
        return self

    def _check(self, x: np.ndarray) -> np.ndarray:
        check_is_fitted(self)
        return check_signals(x, n_leads=self.n_leads_in_)


class BandPass(_SignalTransformer):
    """Zero-phase Butterworth band-pass.

    Run forwards and backwards, so that the ST segment is not shifted; for zero-phase filters a lower edge of up to
    0.67 Hz is accepted for diagnostic ECGs (Kligfield et al., AHA/ACC/HRS recommendations I, Circulation 2007).

    Parameters: `low`, `high` edges in Hz; `order` of one pass; `fs` sampling rate in Hz.
    """

    def __init__(self, low: float = 0.5, high: float = 40.0, order: int = 3, fs: float = 100.0):
        self.low, self.high, self.order, self.fs = low, high, order, fs

    def fit(self, x: np.ndarray, y=None):
        if not 0 < self.low < self.high < self.fs / 2:
            raise ValueError(f"band {self.low}-{self.high} Hz does not lie between 0 and {self.fs / 2} Hz")
        self.sos_ = signal.butter(self.order, (self.low, self.high), "bandpass", fs=self.fs, output="sos")
        return super().fit(x)

    def transform(self, x: np.ndarray) -> np.ndarray:
        x = self._check(x)
        # Two seconds of mirrored signal let the 0.5 Hz edge settle (a shorter recording has less to mirror). Mirrored
        # in time alone: scipy's default also mirrors in voltage, and bends the last second when it ends in a QRS.
        padding = min(int(2 * self.fs), x.shape[-1] - 1)
        return signal.sosfiltfilt(self.sos_, x, axis=-1, padtype="even", padlen=padding).astype(x.dtype, copy=False)


class AmplitudeLimit(_SignalTransformer):
    """Clip at ± `limit_mv` millivolts.

    The limit is an absolute voltage well above any R wave. Five standard deviations, a common choice, would cut the
    R waves of nearly every record, and most in hypertrophy, whose sign is voltage.
    """

    def __init__(self, limit_mv: float = 8.0):
        self.limit_mv = limit_mv

    def fit(self, x: np.ndarray, y=None):
        if self.limit_mv <= 0:
            raise ValueError(f"limit_mv is {self.limit_mv}, must be above 0")
        return super().fit(x)

    def transform(self, x: np.ndarray) -> np.ndarray:
        return self._check(x).clip(-self.limit_mv, self.limit_mv)


class TimeDerivative(_SignalTransformer):
    """First time derivative in mV/s by central differences; with `append` behind the leads as further channels."""

    def __init__(self, fs: float = 100.0, append: bool = False):
        self.fs, self.append = fs, append

    def transform(self, x: np.ndarray) -> np.ndarray:
        x = self._check(x)
        derivative = np.gradient(x, 1.0 / self.fs, axis=-1).astype(x.dtype, copy=False)
        return np.concatenate([x, derivative], axis=1) if self.append else derivative


class LeadStandardizer(_SignalTransformer):
    """Subtract each lead's mean and divide by its standard deviation, both over all records and samples of `fit`.

    Learns `mean_` and `scale_`, (n_leads,). `partial_fit` takes one chunk of records after the other; `merge` takes
    what another one has learned from its chunk.
    """

    def fit(self, x: np.ndarray, y=None):
        x = check_signals(x)
        mean = x.mean(axis=(0, 2), dtype=np.float64)
        deviation = x - mean[:, None]
        squares = np.einsum("rlt,rlt->l", deviation, deviation)
        return self._learn(x.shape[0] * x.shape[2], mean, squares)

    def partial_fit(self, x: np.ndarray, y=None):
        return self.merge(LeadStandardizer().fit(x))

    def merge(self, other: "LeadStandardizer"):
        """Learn what `other` was fitted on as well (Chan et al. 1979)."""
        if not hasattr(self, "n_seen_"):
            return self._learn(other.n_seen_, other.mean_, other._squares)
        if self.n_leads_in_ != other.n_leads_in_:
            raise ValueError(f"fitted on {self.n_leads_in_} leads, got {other.n_leads_in_}")
        shift, total = other.mean_ - self.mean_, self.n_seen_ + other.n_seen_
        squares = self._squares + other._squares + shift**2 * self.n_seen_ * other.n_seen_ / total
        return self._learn(total, self.mean_ + shift * other.n_seen_ / total, squares)

    def _learn(self, n: int, mean: np.ndarray, squares: np.ndarray):
        self.n_leads_in_, self.n_seen_, self.mean_, self._squares = len(mean), n, mean, squares
        scale = np.sqrt(squares / n)
        self.scale_ = np.where(scale > 0, scale, 1.0)  # a flat lead stays flat instead of becoming NaN
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        x = self._check(x)
        return (x - self.mean_[:, None].astype(x.dtype)) / self.scale_[:, None].astype(x.dtype)


class LeadStatistics(_SignalTransformer):
    """Eight statistics per lead, (n_records, 8 * n_leads), lead after lead in the order of STATISTICS.

    Mean absolute value and standard deviation (mV), extremes and the 5 % and 95 % quantiles (mV), skewness and
    excess kurtosis: amplitude, polarity and peakedness, which is what the eye reads first.
    """

    STATISTICS = ("mean_abs", "std", "min", "max", "q05", "q95", "skewness", "kurtosis")

    def transform(self, x: np.ndarray) -> np.ndarray:
        x = self._check(x)
        q05, q95 = np.quantile(x, (0.05, 0.95), axis=-1)
        std = x.std(axis=-1)
        with np.errstate(invalid="ignore"):  # 0/0 of a flat lead, set to 0 below
            shape = [np.nan_to_num(f(x, axis=-1)) for f in (stats.skew, stats.kurtosis)]
        values = [np.abs(x).mean(axis=-1), std, x.min(axis=-1), x.max(axis=-1), q05, q95, *shape]
        return np.stack(values, axis=-1).reshape(len(x), -1).astype(np.float32)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        check_is_fitted(self)
        leads = input_features if input_features is not None else [f"lead{i}" for i in range(self.n_leads_in_)]
        return np.asarray([f"{lead}_{name}" for lead in leads for name in self.STATISTICS], dtype=object)
