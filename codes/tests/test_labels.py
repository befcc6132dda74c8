"""Labels and splits: the same in every process, of every statement that is listed, and patients that never cross."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT
from made_up import statement_list, write_splits

from ecg.artifacts import UserError, read_json, write_json
from ecg.labels import (
    RECORD_COLUMNS,
    SPLITS,
    make_splits,
    read_database,
    read_records,
    read_split,
    read_splits,
    read_tables,
    single_label,
    statement_table,
)

KNOWN = pd.Index(["NORM", "IMI", "LVH", "LAFB", "SR"])


def database(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    base = {"ecg_id": range(1, n + 1), "patient_id": range(n), "strat_fold": 1, "validated_by_human": True}
    return pd.DataFrame(base | columns)


# --- from the raw tables ------------------------------------------------------------------------------------------


def test_labels_are_the_same_under_every_hash_seed(tmp_path):
    """Trap 2: a label that depends on set or dict order differs between processes."""
    write_splits(tmp_path)
    files = ("ptbxl_train.csv", "ptbxl_val.csv", "ptbxl_test.csv", "ptbxl_statements.csv", "ptbxl_splits.json")
    outputs = []
    for hash_seed in ("0", "4711"):
        artifacts = tmp_path / hash_seed
        script = str(ROOT / "codes" / "02_split.py")
        command = [sys.executable, script, "--data", str(tmp_path / "data"), "--artifacts", str(artifacts)]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": hash_seed})
        outputs.append([(artifacts / name).read_bytes() for name in files])
    here = [(tmp_path / name).read_bytes() for name in files]
    assert outputs == [here, here]


def test_every_listed_statement_counts_and_unknown_ones_are_counted():
    table, unknown = statement_table(
        database(scp_codes=["{'IMI': 0.0, 'LVH': 15.0, 'SR': 0.0}", "{'SR': 0.0, 'XYZ': 9.0}", "{'NORM': 100.0}"]),
        KNOWN,
    )
    assert table[list(KNOWN)].to_numpy().tolist() == [[0, 1, 1, 0, 1], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]
    assert unknown == {"XYZ": 1}


def test_statements_of_less_than_50_percent_or_none_are_listed_as_unlikely():
    table, _ = statement_table(database(scp_codes=["{'IMI': 0.0, 'LVH': 50.0, 'LAFB': 35.0}", "{}"]), KNOWN)
    assert table.unlikely.tolist() == ["IMI LAFB", ""]


def test_scp_codes_are_parsed_not_evaluated():
    with pytest.raises(UserError, match=r"scp_codes of ecg_id 1"):
        statement_table(database(scp_codes=["__import__('os').abort()"]), KNOWN)


def test_the_single_label_is_empty_unless_there_is_exactly_one():
    labels = pd.DataFrame([[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]], columns=list("abcd"))
    assert single_label(labels).tolist() == ["", "c", ""]


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda table: table.drop(columns="scp_codes"), "scp_codes"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "ecg_id 1 "),
        (lambda table: table.assign(patient_id=None), "patient_id"),
        (lambda table: table.assign(validated_by_human="maybe"), "maybe"),
    ],
)
def test_a_damaged_table_is_refused_by_file_and_field(tmp_path, damage, field):
    path = write_splits(tmp_path) / "data" / "ptbxl_database.csv"
    damage(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(UserError, match=rf"ptbxl_database\.csv.*{field}"):
        read_database(tmp_path / "data")


# --- splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["folds", "validated"])
def test_patients_never_cross_splits(ptbxl, tmp_path, split):
    make_splits(data=ptbxl, artifacts=tmp_path, split=split)
    tasks = read_splits(tmp_path).tasks
    tables = read_tables(tmp_path, SPLITS, tasks.values())
    for task in tasks.values():
        parts = {name: tables[task.name, name] for name in SPLITS}
        patients = {name: set(part.patient_id) for name, part in parts.items()}
        for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
            assert not patients[a] & patients[b]
        for part in parts.values():
            assert tuple(part.columns) == (*RECORD_COLUMNS, *task.classes, "label")
            assert part[list(task.classes)].any(axis=1).all()
            assert ((part.label == "") == (part[list(task.classes)].sum(axis=1) != 1)).all()
    if split == "folds":
        assert set(parts["train"].strat_fold) == set(range(1, 9))
        assert set(parts["val"].strat_fold) == {9}
        assert set(parts["test"].strat_fold) == {10}
    else:
        assert parts["val"].validated_by_human.all() and parts["test"].validated_by_human.all()


def test_shuffled_labels_keep_their_counts_and_leave_their_records(tmp_path):
    plain = read_records(write_splits(tmp_path)).set_index("ecg_id")
    make_splits(data=tmp_path / "data", artifacts=tmp_path / "shuffled", shuffle_labels=True)
    shuffled = read_records(tmp_path / "shuffled").set_index("ecg_id")
    names = list(statement_list().index)
    assert plain[names].sum().to_dict() == shuffled[names].sum().to_dict()
    assert (plain.patient_id == shuffled.patient_id).all()
    assert (plain[names] == shuffled[names]).all(axis=1).mean() < 0.6
    assert read_splits(tmp_path / "shuffled").shuffle_labels


# --- what 02 leaves -----------------------------------------------------------------------------------------------


def test_the_first_task_has_its_columns_in_the_split_tables_and_runs_may_name_any_other(tmp_path):
    own = tmp_path / "blocks.csv"
    own.write_text("statement,class\nD0,early\nD1,late\nF0,late\n", encoding="utf-8")
    splits = read_splits(write_splits(tmp_path, labels=("form", str(own))))
    others = ["superdiagnostic", "subdiagnostic", "diagnostic", "rhythm", "all"]
    assert list(splits.tasks) == ["form", "blocks", *others] and splits.first.name == "form"
    assert splits.task("") is splits.first and splits.task("blocks").classes == ("early", "late")
    assert tuple(pd.read_csv(tmp_path / "ptbxl_val.csv").columns) == (*RECORD_COLUMNS, *splits.first.classes, "label")
    with pytest.raises(UserError, match="no_such_task"):
        splits.task("no_such_task")


def test_the_tables_of_a_task_are_the_same_whether_it_is_the_first_or_not(tmp_path):
    write_splits(tmp_path)
    make_splits(data=tmp_path / "data", artifacts=tmp_path / "form", labels=("form",))
    task = read_splits(tmp_path).task("form")
    for name in SPLITS:
        as_first, as_other = read_split(tmp_path / "form", name), read_split(tmp_path, name, task)
        pd.testing.assert_frame_equal(as_first, as_other, check_dtype=False)
    assert read_splits(tmp_path).labels_sha256 == read_splits(tmp_path / "form").labels_sha256


def test_several_tables_at_once_are_those_read_one_by_one_and_each_file_is_read_once(tmp_path, monkeypatch):
    tasks = read_splits(write_splits(tmp_path)).tasks.values()
    expected = {(task.name, name): read_split(tmp_path, name, task) for task in tasks for name in ("val", "test")}
    read, original = [], pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda path, **options: (read.append(path), original(path, **options))[1])
    tables = read_tables(tmp_path, ("val", "test"), tasks)
    assert len(read) == len(set(read)) == 3
    assert tables.keys() == expected.keys()
    for key, table in tables.items():
        pd.testing.assert_frame_equal(table, expected[key])


@pytest.mark.parametrize("labels", [(), ("superdiagnostics",), ("form", "form")])
def test_labels_that_name_no_task_or_one_twice_are_refused(tmp_path, labels):
    with pytest.raises(UserError, match="--labels"):
        write_splits(tmp_path, labels=labels)


@pytest.mark.parametrize("name", ["ptbxl_test.csv", "ptbxl_statements.csv"])
def test_a_record_twice_in_a_table_is_refused(tmp_path, name):
    path = write_splits(tmp_path) / name
    table = pd.read_csv(path)
    pd.concat([table, table.iloc[-1:]]).to_csv(path, index=False)
    with pytest.raises(UserError, match=rf"{name}.*ecg_id {table.ecg_id.iloc[-1]} appears twice"):
        read_tables(tmp_path, ("test",), read_splits(tmp_path).tasks.values())


def test_a_splits_file_of_an_older_version_says_to_run_02(tmp_path):
    path = write_splits(tmp_path) / "ptbxl_splits.json"
    facts = read_json(path, made_by="02")
    del facts["tasks"]
    write_json(facts, path)
    with pytest.raises(UserError, match=r"ptbxl_splits\.json.*02_split"):
        read_splits(tmp_path)
