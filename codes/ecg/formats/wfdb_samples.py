"""The integers in the signal files of WFDB records; what they mean stands in the header, which `wfdb.py` reads.

Formats: https://physionet.org/physiotools/wag/signal-5.htm. A file is a sequence of frames: of each signal one sample
or more, one signal after the other. In the FLAC formats each signal is a channel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ecg.formats import RecordError

# "no sample", by format; format 8 has none
MISSING = {
    "16": -(2**15), "24": -(2**23), "32": -(2**31), "61": -(2**15), "80": -(2**7), "160": -(2**15), "212": -(2**11),
    "310": -(2**9), "311": -(2**9), "508": -(2**7), "516": -(2**15), "524": -(2**23),
}  # fmt: skip
FORMATS = ("8", *MISSING)
FLAC = ("508", "516", "524")
BYTES = {"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "24": 3, "32": 4}  # per sample


@dataclass(frozen=True)
class SignalFile:
    """A signal file: its format, the bytes (in FLAC: samples) before the first frame, samples per frame by signal."""

    path: Path
    format: str
    offset: int
    per_frame: tuple[int, ...]

    @cached_property
    def n_frames(self) -> int:
        """How many whole frames are there."""
        if self.format in FLAC:
            with self._flac() as file:
                return max(0, file.frames - self.offset) // self.per_frame[0]
        size = max(0, self.path.stat().st_size - self.offset)
        if self.format == "212":  # two samples in three bytes, one in two
            samples = size * 2 // 3
        elif self.format == "310":  # three in four bytes, two in four, one in two
            samples = size // 4 * 3 + (size % 4 >= 2)
        elif self.format == "311":  # three in four bytes, two in three, one in two
            samples = size // 4 * 3 + max(0, size % 4 - 1)
        else:
            samples = size // BYTES[self.format]
        return samples // sum(self.per_frame)

    def samples(self, n_frames: int) -> Iterator[np.ndarray]:
        """Yield each signal's integers in the first `n_frames`, (n_frames x samples per frame,)."""
        if self.format in FLAC:
            yield from self._flac_samples(n_frames)
            return
        n = n_frames * sum(self.per_frame)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(n * BYTES[self.format] if self.format in BYTES else (n + 2) * 3 // 2)
        frames = _decoded(self.format, content, n).reshape(n_frames, -1)
        start = 0
        for count in self.per_frame:
            samples = frames[:, start : start + count].reshape(-1)
            start += count
            yield samples.cumsum(dtype=np.int64) if self.format == "8" else samples  # format 8: differences

    def _flac(self) -> Any:
        import soundfile

        try:
            return soundfile.SoundFile(self.path)
        except (RuntimeError, TypeError) as error:
            raise RecordError(f"{self.path.name} is no FLAC file: {error}") from None

    def _flac_samples(self, n_frames: int) -> Iterator[np.ndarray]:
        with self._flac() as file:
            bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}.get(file.subtype)
            if file.format != "FLAC" or bits is None:
                raise RecordError(f"{self.path.name} is no FLAC file of 8, 16 or 24 bits")
            if self.per_frame != (self.per_frame[0],) * file.channels:
                raise RecordError(f"{self.path.name} has {file.channels} channels, its header {len(self.per_frame)}")
            left, chunks = n_frames * self.per_frame[0], []
            try:
                file.seek(self.offset)
                while left:  # libsndfile fails on blocks of more than 2**24 samples
                    chunk = file.read(min(left, 2**18), dtype="int32", always_2d=True)
                    if not len(chunk):
                        raise RecordError(f"{self.path.name} ends earlier than its header says: cut off?")
                    chunks.append(chunk >> (32 - bits))
                    left -= len(chunk)
            except RuntimeError as error:
                raise RecordError(f"{self.path.name} is damaged: {error}") from None
        yield from np.concatenate(chunks).T if chunks else ()


def _decoded(kind: str, content: bytes, n: int) -> np.ndarray:
    """Return the first `n` integers of a signal file that is not FLAC."""
    if kind in ("8", "16", "61", "32"):
        return np.frombuffer(content, {"8": "i1", "16": "<i2", "61": ">i2", "32": "<i4"}[kind], n)
    if kind == "80":
        return np.frombuffer(content, "u1", n).astype(np.int16) - 2**7
    if kind == "160":
        return np.frombuffer(content, "<u2", n).astype(np.int32) - 2**15
    if kind == "24":
        low, middle, high = np.frombuffer(content, "u1", 3 * n).reshape(n, 3).T
        return (high.view(np.int8).astype(np.int32) << 16) | (middle.astype(np.int32) << 8) | low
    whole = content + bytes(-len(content) % (3 if kind == "212" else 4))  # the last group may be broken off
    if kind == "212":  # two samples in three bytes: the middle one has the upper bits of both
        low, middle, high = np.frombuffer(whole, "u1").reshape(-1, 3).T.astype(np.int16)
        columns, bits = [low | (middle & 0x0F) << 8, high | (middle & 0xF0) << 4], 12
    elif kind == "310":  # three in two words: the third is what the first two have to spare
        first, second = np.frombuffer(whole, "<u2").reshape(-1, 2).T.astype(np.int32)
        columns, bits = [first >> 1 & 0x3FF, second >> 1 & 0x3FF, first >> 11 | (second >> 11) << 5], 10
    else:  # 311: three in one word, from its lowest bit on
        word = np.frombuffer(whole, "<u4").astype(np.int64)
        columns, bits = [word & 0x3FF, word >> 10 & 0x3FF, word >> 20 & 0x3FF], 10
    samples = np.stack(columns, axis=1).reshape(-1)[:n]
    return samples - ((samples >> (bits - 1)) << bits)
