"""Labels and splits: their counts at full size, the same in every process, and patients that never cross."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from ecg.artifacts import ROOT, UserError
from ecg.labels import (
    CLASSES,
    SPLIT_COLUMNS,
    assign_split,
    make_splits,
    read_database,
    read_split,
    read_superclasses,
    single_label,
    superclass_labels,
)

SHARED = ROOT.parent / "shared"
FULL_TABLE = SHARED / "PTB-XL-metadata-v1.0.1.csv.gz"
STATEMENTS = {"NORM": "NORM", "IMI": "MI", "NDT": "STTC", "LAFB": "CD", "LVH": "HYP"}


def database(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    base = {"ecg_id": range(1, n + 1), "patient_id": range(n), "strat_fold": 1, "validated_by_human": True}
    return pd.DataFrame(base | columns)


@pytest.mark.skipif(not FULL_TABLE.exists(), reason="the metadata table of the whole of PTB-XL is not here")
def test_the_full_table_gives_the_published_counts(tmp_path):
    (tmp_path / "ptbxl_database.csv").write_bytes(gzip.decompress(FULL_TABLE.read_bytes()))
    table = read_database(tmp_path)
    labels = superclass_labels(table, read_superclasses(SHARED / "PTB-XL"))
    assert labels.sum().to_dict() == {"NORM": 9528, "MI": 5486, "STTC": 5250, "CD": 4907, "HYP": 2655}
    assert (~labels.any(axis=1)).sum() == 407
    folds = [2177, 2184, 2194, 2175, 2176, 2178, 2178, 2179, 2193, 2203]
    assert table.strat_fold.value_counts().sort_index().tolist() == folds
    assert table.patient_id.nunique() == 18885


def test_labels_are_the_same_under_every_hash_seed(synthetic, tmp_path):
    """Trap 2: a label that depends on set or dict order differs between processes."""
    data = synthetic
    if FULL_TABLE.exists():
        data = tmp_path
        (data / "ptbxl_database.csv").write_bytes(gzip.decompress(FULL_TABLE.read_bytes()))
        shutil.copy(SHARED / "PTB-XL" / "scp_statements.csv", data)
    script = str(ROOT / "codes" / "02_split.py")
    outputs = []
    for hash_seed in ("0", "1", "2", "3", "42", "4711"):
        artifacts = tmp_path / hash_seed
        command = [sys.executable, script, "--data", str(data), "--artifacts", str(artifacts)]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        outputs.append([(artifacts / f"ptbxl_{name}.csv").read_bytes() for name in ("train", "val", "test")])
    assert all(output == outputs[0] for output in outputs)


def test_every_listed_diagnostic_code_counts_and_no_other_does():
    table = database(scp_codes=["{'IMI': 0.0, 'LVH': 15.0, 'SR': 0.0}", "{'SR': 0.0}", "{'NORM': 100.0}"])
    labels = superclass_labels(table, STATEMENTS)
    assert labels.to_numpy().tolist() == [[0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert tuple(labels.columns) == CLASSES


def test_likelihood50_drops_what_is_less_likely_or_not_stated():
    table = database(scp_codes=["{'IMI': 0.0, 'LVH': 50.0, 'LAFB': 35.0}"])
    assert superclass_labels(table, STATEMENTS, label_policy="likelihood50").to_numpy().tolist() == [[0, 0, 0, 0, 1]]


def test_the_single_label_is_empty_unless_there_is_exactly_one():
    labels = pd.DataFrame([[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 1]], columns=CLASSES)
    assert single_label(labels).tolist() == ["", "CD", ""]


def test_scp_codes_are_parsed_not_evaluated():
    table = database(scp_codes=["__import__('os').abort()"])
    with pytest.raises(UserError, match=r"scp_codes of ecg_id 1"):
        superclass_labels(table, STATEMENTS)


@pytest.mark.parametrize("split", ["folds", "validated"])
def test_patients_never_cross_splits(ptbxl, tmp_path, split):
    make_splits(data=ptbxl, artifacts=tmp_path, split=split, label_policy="any")
    parts = {name: read_split(tmp_path, name) for name in ("train", "val", "test")}
    patients = {name: set(part.patient_id) for name, part in parts.items()}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not patients[a] & patients[b]
    for part in parts.values():
        assert tuple(part.columns) == SPLIT_COLUMNS
        assert part[list(CLASSES)].any(axis=1).all()
        assert ((part.label == "") == (part[list(CLASSES)].sum(axis=1) != 1)).all()
    if split == "folds":
        assert set(parts["train"].strat_fold) == set(range(1, 9))
        assert set(parts["val"].strat_fold) == {9}
        assert set(parts["test"].strat_fold) == {10}
    else:
        assert parts["val"].validated_by_human.all() and parts["test"].validated_by_human.all()


def test_shuffled_labels_keep_their_counts_and_leave_their_records(ptbxl, tmp_path):
    tables = []
    for shuffle in (False, True):
        options = {"split": "folds", "label_policy": "any", "shuffle_labels": shuffle}
        make_splits(data=ptbxl, artifacts=tmp_path / str(shuffle), **options)
        tables.append(pd.concat([read_split(tmp_path / str(shuffle), name) for name in ("train", "val", "test")]))
    plain, shuffled = (t.set_index("ecg_id")[list(CLASSES)] for t in tables)
    assert plain.sum().to_dict() == shuffled.sum().to_dict()
    both = plain.index.intersection(shuffled.index)
    assert 0.1 < (plain.loc[both] == shuffled.loc[both]).all(axis=1).mean() < 0.6


def test_a_patient_in_two_folds_is_refused():
    table = database(patient_id=[7, 7], strat_fold=[1, 10])
    with pytest.raises(UserError, match="patient 7"):
        assign_split(table)


def test_the_validated_split_does_not_depend_on_the_order_of_the_table():
    rng = np.random.default_rng(0)
    table = database(patient_id=np.arange(200), validated_by_human=rng.random(200) < 0.7)
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(
        assign_split(table, split="validated"), assign_split(shuffled, split="validated").sort_index()
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.drop(columns="scp_codes"), "scp_codes"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "twice"),
        (lambda t: t.assign(patient_id=None), "patient_id"),
    ],
)
def test_a_damaged_table_is_refused_by_file_and_field(ptbxl, tmp_path, damage, message):
    table = pd.read_csv(ptbxl / "ptbxl_database.csv", low_memory=False).head(20)
    damage(table).to_csv(tmp_path / "ptbxl_database.csv", index=False)
    with pytest.raises(UserError, match=rf"ptbxl_database\.csv.*{message}"):
        read_database(tmp_path)


def test_an_unknown_superclass_is_refused(tmp_path):
    (tmp_path / "scp_statements.csv").write_text(",diagnostic,diagnostic_class\nXYZ,1.0,OTHER\n")
    with pytest.raises(UserError, match=r"scp_statements\.csv.*XYZ"):
        read_superclasses(tmp_path)


def test_class_order_in_the_files_is_the_one_of_the_package(demo):
    """Trap 1: the order is typed once; every artifact states it."""
    configs = [json.loads(path.read_text()) for path in demo.artifacts.glob("**/config.json")]
    assert configs and all(config["classes"] == list(CLASSES) for config in configs)
