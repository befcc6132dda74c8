"""One file per file format: a path in, `Traces` out, as the file has them.

A module that `ecg.recordings.READERS` lists is a reader. It has

- `NAME`: what people call the format, for messages;
- `recognises(path, head)`: whether the file is one, from `head`, its first 4,096 bytes; from the path only where a
  format has no content of its own, as a WFDB record has, which is two files;
- `read(path)`: its `Traces`. It raises `RecordError`, and nothing else, for a file that is damaged, empty or of a
  variant that it does not know, and gives names, units and numbers as the file states them: what they mean is decided
  once for all formats, in `ecg.recordings`. Libraries that take time to import are imported inside `read`.

They are asked in the order of `READERS`. `xml` and `wfdb_samples` are parts that readers share.
"""

from dataclasses import dataclass

import numpy as np


class RecordError(Exception):
    """Why a record cannot be used, in words for `rejected.csv` and `errors.csv`."""


class OtherForm(RecordError):
    """A record that is not as PTB-XL's are, in rate, length, leads or unit, but may be converted."""


@dataclass(frozen=True)
class Traces:
    """What a file holds, before anything is concluded from it.

    `signal` (n_leads, t), float, in `units`, nan where a sample is missing; `names` and `units` one per lead as the
    file spells them, empty where it says nothing; `fs` in Hz, 0 where the file has none. `notes` say what the reader
    had to assume, one sentence each, such as "gain 0 read as 200 units per mV". `device` is maker and model, if stated.
    Nothing that identifies a person is kept: no name, id, birth date, sex, or date of the recording.
    """

    fs: float
    names: tuple[str, ...]
    units: tuple[str, ...]
    signal: np.ndarray
    notes: tuple[str, ...] = ()
    device: str = ""
