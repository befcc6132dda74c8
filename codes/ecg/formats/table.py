"""Tables of numbers as text: CSV, TSV, semicolons with decimal commas, blanks; and what an Apple Watch exports.

There is no one format, so each property is told from the content: encoding, separator and decimal sign from the lines
of numbers, names and units from the line above them, the rate from a column of times or from a line such as
"Sample Rate,512 hertz" above them, and whether leads stand in columns or in rows from their numbers. Empty cells are
nan, so that a digitised page, where each lead has its own 2.5 s, stays one.

Apple's export translates the words of its lines above the numbers (name, date of birth, ..., rate, lead, unit), so the
values are what counts; the others are skipped, and nothing of them is kept or shown. Its numbers have decimal commas,
without semicolons, where the watch's region has them. Written after descriptions of exported files, English and German.
"""

import io
import re
from pathlib import Path

import numpy as np

from ecg.formats import RecordError, Traces

NAME = "table"
MOST_BYTES = 2**28  # an hour of twelve leads at 500 Hz
MOST_LINES_ABOVE = 1000  # the numbers
MOST_LEADS = 64
MOST_HEADING = 2000  # characters of a line above the numbers
MOST_SEEN = 4000  # of a line of numbers, to tell what it is
MOST_WORD = 60  # of a cell
MOST_COLUMNS = 1000  # more are the samples of leads in rows
MISSING = ("", "nan", "na", "n/a", "null", "none", "-", "--", ".", "#n/a", "?", "inf", "-inf")
COMMENT = ("#", "%", "//", "@")
NUMBER = re.compile(r"[-+−]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?", re.IGNORECASE)
CLOCK = re.compile(r"\W*(?:.*[ T])?(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)\D*")  # [[day ]hours:]minutes:seconds
UNIT = r"(?:(?:\d+(?:\.\d+)? ?)?[mnuµμ]?v(?:olts?)?|(?:milli|micro|nano)volts?)"
SECONDS = {"s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6}
SECONDS |= {"µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "millisecond": 1e-3, "milliseconds": 1e-3, "microseconds": 1e-6}
INDEX = ("", "#", "n", "i", "no", "nr", "index", "idx", "sample", "samples", "sample number", "sample #", "unnamed: 0")
TIME = ("t", "time", "times", "timestamp", "elapsed time", "zeit", "temps", "tiempo", "tempo", "x", *SECONDS)
HERTZ = r"(?:hz|h[eé]r[tc]\w*|герц\w*|赫[兹茲]|ヘルツ|헤르츠|χερτζ|הרץ|هرتز)"
LEAD = re.compile(r"(?<![A-Za-z])(I{1,3}|aV[RLF]|V[1-6])(?![A-Za-z0-9])")


def recognises(path: Path, head: bytes) -> bool:
    """Return whether there are lines of numbers, below at most some lines of text."""
    text = _decoded(head)
    if text is None:
        return False
    lines = [line for line in text.splitlines() if line.strip() and not _is_comment(line)]
    if len(head) >= 4096:  # the last line is cut off
        lines = lines[:-1] or [line.rpartition(" ")[0] or line.rpartition(",")[0] for line in lines]
    numeric = [_is_data(line) for line in lines]
    if sum(numeric) < 2:  # leads in rows: one line may be longer than all that is seen
        return bool(numeric) and numeric[-1] and len(_split(lines[-1])) >= 20
    rest = numeric[numeric.index(True) :]
    return sum(rest) >= 0.9 * len(rest)


def read(path: Path) -> Traces:
    """Return the leads of a table; names, units and rate are empty where it does not state them."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise RecordError(f"has more than {MOST_BYTES // 2**20} MB of text: save it as .npy")
        text = _decoded(path.read_bytes())
    except OSError as error:
        raise RecordError(f"cannot be read: {error.strerror}") from None
    if text is None:
        raise RecordError("is no text")
    lines = [line for line in text.splitlines() if line.strip()]
    begin = enumerate(lines[:MOST_LINES_ABOVE])
    first = next((i for i, line in begin if not _is_comment(line) and _is_data(line)), None)
    if first is None:
        raise RecordError("holds no lines of numbers")
    above = [line.strip().lstrip("#%/@ ")[:MOST_HEADING] for line in lines[:first]]
    plain = [line[:MOST_HEADING] for line in lines[:first] if not _is_comment(line)]
    device, notes = re.search(r"\bWatch\d+,\d+", "\n".join(above)), []
    single = _single_lead(above)
    one_name = bool(plain) and "," not in plain[-1]
    cells, sign = _cells([line for line in lines[first:] if not _is_comment(line)], single is not None, one_name)
    if cells.shape[0] <= MOST_LEADS and cells.shape[1] > 2 * cells.shape[0]:  # leads in rows
        cells = cells.T
        labels = [str(cell).strip("'\" ") for cell in cells[0]]
        names, units = [""] * len(labels), [""] * len(labels)
        if _is_labels(labels):
            names, units = _names_and_units(labels)
            cells = cells[1:]
    else:
        names, units = _headings(plain if cells.shape[1] == 1 else above, cells, sign)
    fs = _rate(above)
    keep, kept = [], []
    for i in range(cells.shape[1]):
        is_first = i == 0 and cells.shape[1] > 1
        if is_first and (seconds := _clock(cells[:, 0])) is not None:
            fs, note = _rate_of_times(seconds, "s", names[0])
            notes += note
            continue
        values = _numbers(cells[:, i], names[i] or f"{i + 1}")
        if values is None or (not names[i] and np.isnan(values).all()):
            continue  # a column of text, or what a separator at the end of each line makes
        if is_first and _is_time(values, names[0]):
            unit = _time_unit(names[0], units[0])
            found, note = (0.0, []) if unit is None and _is_index(values) else _rate_of_times(values, unit, names[0])
            fs, notes = found or fs, notes + note
            continue
        keep.append(i)
        kept.append(values)
    if not 0 < len(keep) <= MOST_LEADS:
        raise RecordError(f"has {len(keep)} columns of numbers: an ECG has one for each lead, or a row")
    names, units = [names[i] for i in keep], [units[i] for i in keep]
    if single is not None and len(keep) == 1:
        names, units = [single[0]], [single[1]]
    elif not any(units) and (unit := _unit_above(above)):
        units = [unit] * len(keep)
    maker = f"Apple {device[0]}" if device else ""
    return Traces(fs, tuple(names), tuple(units), np.stack(kept), tuple(notes), maker)


# --- text to cells ---------------------------------------------------------------------------------------------------


def _decoded(content: bytes) -> str | None:
    """Return bytes as text, in UTF-8, UTF-16 with its mark, or code page 1252; None if they are no text."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", content[:4096]):
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start > len(content) - 4:
            return content[: error.start].decode("utf-8-sig")  # a head ends within a letter
        return content.decode("cp1252", errors="replace")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(COMMENT)


def _beginning(line: str) -> str:
    """Return the first cells of a long line, which tell what it is."""
    return line if len(line) <= MOST_SEEN else re.sub(r"[^,;|\s]*$", "", line[:MOST_SEEN])


def _separator(line: str) -> str:
    """Return what separates the cells of a line; a comma only if it is not a decimal sign between blanks."""
    line = _beginning(line)
    for sign in ("\t", ";", "|"):
        if sign in line:
            return sign
    cells = _split(line, ",")
    if len(cells) > 1 and all(_is_number(cell) or cell.lower() in MISSING for cell in cells[1:]):
        return ","
    return " " if re.search(r"\S\s+\S", line.strip()) else ","


def _split(line: str, sign: str = "") -> list[str]:
    sign = sign or _separator(line)
    if sign == " ":
        return [cell.strip("'\"") for cell in line.split()]
    if '"' in line:
        line = re.sub(r'"([^"]*)"', lambda quoted: quoted[1].replace(sign, "\0"), line)
    return [cell.strip().strip("'\"").strip().replace("\0", sign) for cell in line.split(sign)]


def _is_number(cell: str) -> bool:
    return bool(NUMBER.fullmatch(cell))


def _is_data(line: str) -> bool:
    """Return whether a line is numbers and empty cells, but for a first cell with a time or label, or one of text."""
    cells = _split(_beginning(line))
    numbers = [i for i, cell in enumerate(cells) if _is_number(cell)]
    texts = sum(cell.lower() not in MISSING for cell in cells) - len(numbers)
    if _is_count(cells):
        return False  # numbers of columns
    if texts == 0:
        return bool(numbers)
    if CLOCK.fullmatch(cells[0][:MOST_WORD]):
        return texts <= 2 and len(cells) > 1
    return len(numbers) >= 2 and (texts == 1 or texts < 0.1 * len(cells))


def _is_count(cells: list[str]) -> bool:
    """Return whether cells, a first one of text or blank aside, are 0, 1, 2, ... or 1, 2, 3, ..."""
    rest = cells if cells[0] in ("0", "1") else cells[1:]
    return len(rest) > 2 and rest in ([*map(str, range(len(rest)))], [*map(str, range(1, len(rest) + 1))])


def _single_lead(above: list[str]) -> tuple[str, str] | None:
    """Return (lead, unit) that Apple's last two lines above the numbers give; None for other tables."""
    if len(above) < 3 or not _rate(above):
        return None
    unit = re.fullmatch(rf"[^,;\t]+[,;\t]\s*({UNIT})", above[-1].strip(), re.IGNORECASE)
    if not unit:
        return None
    lead = LEAD.search(re.split(r"[,;\t]", above[-2], maxsplit=1)[-1])
    return (lead[1] if lead else ""), unit[1]


def _cells(lines: list[str], single: bool, one_name: bool) -> tuple[np.ndarray, str]:
    """Return (cells of the lines of numbers, as texts or numbers, (n_lines, n_columns); what separates them)."""
    import pandas as pd

    sample = lines[:: max(1, len(lines) // 50)]
    signs = [_separator(line) for line in sample]
    sign, decimal = max(set(signs), key=signs.count), "."
    if sign == ",":
        counts = {line.count(",") for line in sample}
        # some whole numbers, or fractions without a sign of their own where the numbers have one
        signed = any(line.lstrip().startswith("-") for line in lines)
        one = signed and all(re.fullmatch(r"\s*[-+]?\d+,\d+\s*", line[:MOST_WORD]) for line in lines)
        if single or counts == {0, 1} or (counts == {1} and (one_name or one)):
            sign, decimal = "\t", ","
        elif any(re.search(r'"[-+]?\d+,\d+"', line) for line in sample):
            lines = [re.sub(r'"([-+]?\d+),(\d+)"', r"\1.\2", line) for line in lines]
    elif any("," in cell and _is_number(cell) for line in sample for cell in _split(line, sign)):
        decimal = ","
    counts = [line.count(sign) + 1 for line in sample]
    if max(counts) > MOST_COLUMNS:
        return _wide(lines, sign, decimal), sign
    counts = [len(_split(line, sign)) for line in sample]
    n = max(set(counts), key=counts.count)
    if not any('"' in line for line in sample):
        counts = [len(line.split()) if sign == " " else line.count(sign) + 1 for line in lines]
        wrong = next((i for i, count in enumerate(counts) if count != n), None)
        if wrong is not None and (wrong < len(lines) - 1 or counts[wrong] > n):
            raise RecordError(f"row {wrong + 1} of the numbers has {counts[wrong]} cells, most have {n}: damaged?")
        lines = lines[:wrong]  # the last one is cut off
    try:
        table = pd.read_csv(
            io.StringIO("\n".join(lines).replace("−", "-")),
            sep=r"\s+" if sign == " " else sign,
            header=None,
            names=range(n),
            index_col=False,
            decimal=decimal,
            skipinitialspace=True,
            na_values=list(MISSING),
            low_memory=False,
        )
    except (ValueError, OverflowError) as error:  # pandas' errors of parsing are ValueErrors
        place = re.search(r"line \d+", str(error))
        raise RecordError(f"its rows differ in their number of cells ({place[0] if place else 'damaged?'})") from None
    return table.to_numpy(), sign


def _wide(lines: list[str], sign: str, decimal: str) -> np.ndarray:
    """Return the cells of a few long lines as texts."""
    if len(lines) > MOST_LEADS:
        raise RecordError(f"has {len(lines)} rows of more than {MOST_COLUMNS} cells: an ECG has one for each lead")
    rows = [_split(line.replace("−", "-"), sign) for line in lines]
    n = max(map(len, rows))
    rows = [[*row, *[""] * (n - len(row))] for row in rows]
    return np.array([[cell.replace(",", ".") for cell in row] for row in rows] if decimal == "," else rows, object)


def _numbers(cells: np.ndarray, name: str) -> np.ndarray | None:
    """Return a column as floats, nan for empty cells; None if it is one of text."""
    if cells.dtype != object:
        return cells.astype(np.float64)
    texts = [str(cell).strip().strip("'\"").lower() if cell is not None else "" for cell in cells]
    values, wrong = np.full(len(texts), np.nan), []
    for i, text in enumerate(texts):
        if text in MISSING:
            continue
        try:
            values[i] = float(text)
        except ValueError:
            wrong.append(i)
    there = sum(text not in MISSING for text in texts)
    if len(wrong) > there / 2:
        return None
    if wrong:
        raise RecordError(f"column {name}: row {wrong[0] + 1} of the numbers is no number; {len(wrong)} such cells")
    return values


# --- what the columns are --------------------------------------------------------------------------------------------


def _is_labels(row: list[str]) -> bool:
    return sum(not _is_number(cell) and cell.lower() not in MISSING for cell in row) > len(row) / 2


def _lengthened(row: list[str], n: int, *, at_end: bool) -> list[str]:
    """Return a row that lacks one of `n` cells with an empty one, at its end or beginning; others as they are."""
    if len(row) != n - 1:
        return row
    return [*row, ""] if at_end else ["", *row]


def _headings(above: list[str], cells: np.ndarray, sign: str) -> tuple[list[str], list[str]]:
    """Return names and units of the columns, from the last lines above the numbers that have as many cells."""
    n = cells.shape[1]
    # a heading less than columns: a separator ends each line, or rows have numbers without a heading
    ends_with_separator = _is_empty(cells[:, -1])
    rows = []
    for line in reversed(above[-3:] if n > 2 else above[-1:]):  # of two cells are also "name: value"
        splits = [_split(line, each) for each in (sign, "\t", ";", ",", "|", " ")]
        if n > 2:
            splits = [_lengthened(row, n, at_end=ends_with_separator) for row in splits]
        rows += [row for row in splits if len(row) == n and not any(map(_is_number, row))][:1]
    units = [""] * n
    if rows and all(re.fullmatch(rf"{UNIT}|{'|'.join(SECONDS)}|\W*hh:mm.*|", cell, re.I) for cell in rows[0]):
        units = [cell if re.fullmatch(f"{UNIT}|{'|'.join(SECONDS)}", cell, re.I) else "" for cell in rows.pop(0)]
    names, found = _names_and_units(rows[0] if rows else [""] * n)
    return names, [unit or other for unit, other in zip(found, units, strict=True)]


def _is_empty(column: np.ndarray) -> bool:
    return all(cell is None or str(cell).strip().lower() in MISSING for cell in column)


def _names_and_units(labels: list[str]) -> tuple[list[str], list[str]]:
    """Return the parts of labels such as `I (mV)`, `V1 [uV]`, `aVR_mV`."""
    names, units = [*labels], [""] * len(labels)
    for i, label in enumerate(labels):
        match = len(label) < 80 and re.fullmatch(
            rf"(.*?)\s*(?:[\[(]\s*({UNIT})\s*[\])]|[_/ ]\s*({UNIT}))", label, re.IGNORECASE
        )
        if match and match[1]:
            names[i], units[i] = match[1], match[2] or match[3]
    return names, units


def _rate(lines: list[str]) -> float:
    """Return the rate in Hz that lines above the numbers state, 0 if none or several do."""
    both, called, found = set(), set(), set()
    for line in (line[:200] for line in lines):
        if re.search(r"pass|filter|notch|mains|netz|band|bpm|heart|herz|cardia|puls", line, re.IGNORECASE):
            continue
        hertz = re.search(rf"(\d+(?:[.,]\d+)?)\s*{HERTZ}", line, re.IGNORECASE)
        name = (
            r"\b(?:fs|sampl\w*[ _-]?(?:rate|freq\w*)|rate|freq\w*|abtastrate|messrate)\W*[=:,;\t ]\W*(\d+(?:[.,]\d+)?)"
        )
        by_name = re.search(name, line, re.IGNORECASE)
        if hertz:
            (both if by_name else found).add(float(hertz[1].replace(",", ".")))
        elif by_name:
            called.add(float(by_name[1].replace(",", ".")))
    rates = both or called or found
    return rates.pop() if len(rates) == 1 else 0.0


def _unit_above(lines: list[str]) -> str:
    """Return the unit that a line of its own gives for all columns, such as "unit: uV"."""
    found = {
        match[1] for line in lines if (match := re.fullmatch(rf"[^,;:=\t]+[,;:=\t]+\s*({UNIT})", line.strip(), re.I))
    }
    return found.pop() if len(found) == 1 else ""


def _clock(cells: np.ndarray) -> np.ndarray | None:
    """Return a column of clock times, "0:00.004" or "2020-01-31 23:59:59.998", in seconds; None if it is none."""
    if cells.dtype != object or not len(cells) or not CLOCK.fullmatch(str(cells[0])[:MOST_WORD]):
        return None
    matches = [CLOCK.fullmatch(str(cell)[:MOST_WORD]) for cell in cells]
    if not all(matches):
        return None
    seconds = [int(m[1] or 0) * 3600 + int(m[2]) * 60 + float(m[3].replace(",", ".")) for m in matches]
    return np.unwrap(np.array(seconds), period=86400)


def _time_unit(name: str, unit: str) -> str | None:
    """Return the unit of a time column by its heading: `t_ms`, `time (s)`, `ms`."""
    words = re.split(r"[^a-zµμ]+", name.lower())
    return next((word for word in [unit.lower(), *reversed(words)] if word in SECONDS), None)


def _is_time(values: np.ndarray, name: str) -> bool:
    """Return whether a first column counts time or samples: by its heading, or as it rises from row to row evenly."""
    if len(values) < 3 or np.isnan(values).any():
        return False
    step = np.diff(values)
    bare = re.sub(r"[\[(].*", "", name.lower()).strip(" _")
    if bare in TIME or bare in INDEX[1:] or re.match(r"(time|zeit|t)[ _]", bare):
        return bool((step >= 0).all() and values[-1] > values[0])
    middle = np.median(step)
    return bool((step > 0).all() and np.mean(np.abs(step - middle) <= 0.51 * middle) > 0.99)


def _is_index(values: np.ndarray) -> bool:
    return bool((np.diff(values) == 1).all())


def _rate_of_times(times: np.ndarray, unit: str | None, name: str) -> tuple[float, list[str]]:
    """Return (rate in Hz of even times, what is odd about them); without `unit` the one that gives 20 Hz to 20 kHz."""
    step, notes = np.diff(times), []
    middle = float(np.median(step)) or float(times[-1] - times[0]) / len(step)
    if not np.isfinite(middle) or middle <= 0 or (step < 0).any():
        raise RecordError(f"its times ({name or 'first column'}) do not rise from row to row")
    jumps = int((step > 1.9 * max(middle, np.mean(step))).sum())
    mean = middle if jumps else float(times[-1] - times[0]) / len(step)  # times may be rounded: their mean is exact
    if unit is None:
        unit = "s" if mean < 0.05 else "ms" if mean <= 50 else "us" if mean <= 5e4 else "ns"
        notes.append(f"its times are taken as {unit}")
    if jumps:
        notes.append(f"its times leave out {jumps} stretches, which are taken as if nothing was missing")
    rate = 1 / (mean * SECONDS[unit])
    # times are rounded: a whole number of Hz is taken if they do not tell it from what they give
    rounding = float(np.abs(times - np.linspace(times[0], times[-1], len(times))).max()) if not jumps else 0.0
    doubt = 1e-4 + min(0.005, 2 * rounding / float(times[-1] - times[0]))
    return (float(round(rate)) if abs(rate - round(rate)) < doubt * rate else rate), notes
