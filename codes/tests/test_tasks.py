"""A task is a value: its classes, what they are made of, and what a run of one task says of another."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from made_up import draw, statement_list
from sklearn.metrics import roc_auc_score

from ecg.artifacts import UserError
from ecg.labels import read_database, statement_table
from ecg.metrics import macro_auc, per_class_auc
from ecg.tasks import BENCHMARK, SUPERCLASSES, Task, benchmark_tasks, read_statements, task_from_csv

SHARED = ROOT.parent / "shared"
FULL_TABLE = SHARED / "PTB-XL-metadata-v1.0.1.csv.gz"
PUBLISHED = SHARED / "published" / "xresnet1d101_all.npz"
MISSING = [path for path in (FULL_TABLE, SHARED / "PTB-XL" / "scp_statements.csv") if not path.exists()]

needs_full_table = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(map(str, MISSING))} is not here")
needs_published = pytest.mark.skipif(not PUBLISHED.exists(), reason=f"{PUBLISHED} is not here")


def parts_of(*groups: str, name: str = "own") -> Task:
    """Return a task from texts such as "A: a b", a class and the statements that make it."""
    pairs = [group.split(": ") for group in groups]
    classes = tuple(label for label, _ in pairs)
    return Task(name, classes, classes, tuple(tuple(statements.split()) for _, statements in pairs))


FINE = parts_of("a: a", "b: b", "c: c", "d: d", name="fine")


# --- sources and answers ------------------------------------------------------------------------------------------


def test_a_class_is_made_up_by_the_classes_that_have_exactly_its_statements():
    assert FINE.sources(parts_of("AB: a b", "C: c")) == ((0, 1), (2,))
    assert FINE.sources(FINE) == ((0,), (1,), (2,), (3,))
    assert parts_of("AB: a b", "C: c", "D: d").sources(parts_of("X: d a b")) == ((0, 2),)


def test_classes_with_too_many_or_too_few_statements_make_up_nothing():
    coarse = parts_of("AB: a b", "C: c")
    assert coarse.sources(FINE) is None  # ab is more than a
    assert coarse.sources(parts_of("X: a c")) is None
    assert FINE.sources(parts_of("X: a e")) is None  # nobody says e
    assert FINE.sources(parts_of("A: a", "X: a e")) is None  # one class is not enough


def test_a_task_without_statements_makes_up_nothing():
    """As the runs of older code are read back: their config.json names no statements."""
    old = Task("superdiagnostic", ("X", "Y"), ("X", "Y"), ((), ()))
    assert old.sources(FINE) is None and FINE.sources(old) is None


def test_an_answer_to_another_task_keeps_single_columns_and_joins_several_as_if_independent():
    probability = np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.5, 0.9]])
    answer = FINE.answer(probability, parts_of("D: d", "ABC: a b c", "A: a"))
    np.testing.assert_array_equal(answer[:, [0, 2]], probability[:, [3, 0]])
    np.testing.assert_allclose(answer[:, 1], [1 - 0.9 * 0.8 * 0.7, 1.0])
    with pytest.raises(ValueError, match="fine"):
        FINE.answer(probability, parts_of("X: a e"))


def test_all_makes_up_the_other_five_tasks_and_diagnostic_its_two_groupings():
    tasks = benchmark_tasks(statement_list(diagnostic=44, form=19, rhythm=12))
    assert {name: len(task) for name, task in tasks.items()} | {"subdiagnostic": 0} == {
        "superdiagnostic": 5,
        "subdiagnostic": 0,
        "diagnostic": 44,
        "form": 19,
        "rhythm": 12,
        "all": 74,  # one statement is diagnostic and form
    }
    answers = {name: [other for other, task in tasks.items() if own.sources(task)] for name, own in tasks.items()}
    assert answers["all"] == list(tasks) == list(BENCHMARK)
    assert answers["diagnostic"] == ["superdiagnostic", "subdiagnostic", "diagnostic"]
    assert answers["subdiagnostic"] == ["superdiagnostic", "subdiagnostic"]
    assert answers["form"] == ["form"] and answers["rhythm"] == ["rhythm"]


def test_a_perfect_answer_to_all_is_perfect_for_every_task():
    statements = statement_list(diagnostic=12, form=5, rhythm=4)
    tasks = benchmark_tasks(statements)
    given = pd.DataFrame(draw(200, 0.15, len(statements), seed=0), columns=statements.index).assign(unlikely="")
    certain = tasks["all"].labels(given).to_numpy().astype(float)
    for task in tasks.values():
        np.testing.assert_array_equal(tasks["all"].answer(certain, task), task.labels(given).to_numpy())


# --- the benchmark's tasks ----------------------------------------------------------------------------------------


def test_superclasses_stand_in_their_own_order_and_all_others_in_the_alphabets():
    tasks = benchmark_tasks(statement_list().sample(frac=1, random_state=0))
    assert tasks["superdiagnostic"].classes == tuple(SUPERCLASSES)
    for name in BENCHMARK[1:]:
        assert list(tasks[name].classes) == sorted(tasks[name].classes)
    assert tasks["all"].names["F1"] == "what F1 means"


def test_a_task_without_a_statement_is_left_out():
    statements = statement_list()
    statements["rhythm"] = np.nan
    assert "rhythm" not in benchmark_tasks(statements)


def test_an_unknown_superclass_is_refused():
    statements = statement_list()
    statements.loc["D2", "diagnostic_class"] = "OTHER"
    with pytest.raises(UserError, match=r"D2.*OTHER"):
        benchmark_tasks(statements)


def test_a_statement_listed_twice_is_refused(tmp_path):
    statements = statement_list()
    pd.concat([statements, statements.loc[["F0"]]]).to_csv(tmp_path / "scp_statements.csv")
    with pytest.raises(UserError, match="F0"):
        read_statements(tmp_path)


@pytest.mark.parametrize("name", BENCHMARK)
def test_a_task_comes_back_from_json_as_it_went(name):
    task = benchmark_tasks(statement_list())[name]
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_likelihood50_concerns_diagnostic_statements_alone():
    tasks = benchmark_tasks(statement_list())
    given = pd.DataFrame(0, index=range(2), columns=statement_list().index).assign(unlikely=["D0 F0 R0 D7", ""])
    given[["D0", "F0", "R0", "D7"]] = 1
    assert tasks["diagnostic"].labels(given, label_policy="likelihood50").sum(axis=1).tolist() == [0, 2]
    assert tasks["form"].labels(given, label_policy="likelihood50").sum(axis=1).tolist() == [2, 2]  # F0, and D7 as form
    assert tasks["rhythm"].labels(given, label_policy="likelihood50").sum(axis=1).tolist() == [1, 1]
    with pytest.raises(UserError, match="likely"):
        tasks["form"].labels(given, label_policy="likely")


# --- a task of one's own ------------------------------------------------------------------------------------------


def csv(folder: Path, text: str) -> Path:
    path = folder / "blocks.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_makes_a_task_named_after_it(tmp_path):
    task = task_from_csv(csv(tmp_path, "statement,class\nF0,odd\nD0,early\nD1,early\nF1 ,odd\n"), statement_list())
    assert (task.name, task.classes) == ("blocks", ("odd", "early"))
    assert task.statements == (("F0", "F1"), ("D0", "D1"))
    assert task.likelihood_counts == ("D0", "D1")
    given = pd.DataFrame([[1, 0, 0, 0], [0, 0, 1, 1]], columns=["F0", "F1", "D0", "D1"]).assign(unlikely="")
    assert task.labels(given).to_numpy().tolist() == [[1, 0], [0, 1]]


def test_a_csv_that_is_not_there_or_cannot_name_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--labels .*rhythms\.csv: there is no such file"):
        task_from_csv(tmp_path / "rhythms.csv", statement_list())
    (tmp_path / "my rhythms.csv").write_text("statement,class\nF0,odd\n")
    with pytest.raises(UserError, match=r"my rhythms\.csv: name the file with letters"):
        task_from_csv(tmp_path / "my rhythms.csv", statement_list())


def test_a_class_of_a_csv_is_named_by_its_long_name_or_its_only_statement(tmp_path):
    text = "statement,class,long_name\nF0,odd,odd beats\nF1,odd,\nD0,first,\nD1,two,\nD2,two,\n"
    task = task_from_csv(csv(tmp_path, text), statement_list())
    assert task.long_names == ("odd beats", "what D0 means", "two")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("statement,group\nF0,odd\n", "class"),
        ("statement,class\n", "every row"),
        ("statement,class\nF0,\n", "every row"),
        ("statement,class\nXYZ,odd\n", "XYZ"),
        ("statement,class\nF0,odd\nF0,odd\n", "F0"),
        ("statement,class\nF0,macro\n", "macro"),
    ],
)
def test_a_csv_that_makes_no_task_is_refused_by_file_and_field(tmp_path, text, field):
    with pytest.raises(UserError, match=rf"blocks\.csv.*{field}"):
        task_from_csv(csv(tmp_path, text), statement_list())


def test_a_statement_may_belong_to_two_classes(tmp_path):
    task = task_from_csv(csv(tmp_path, "statement,class\nF0,odd\nF0,strange\n"), statement_list())
    assert task.statements == (("F0",), ("F0",))


# --- the whole of PTB-XL ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Task]]:
    """All records, their statements and the benchmark's tasks, from the metadata table at full size."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "ptbxl_database.csv").write_bytes(gzip.decompress(FULL_TABLE.read_bytes()))
    shutil.copy(SHARED / "PTB-XL" / "scp_statements.csv", folder)
    database, known = read_database(folder), read_statements(folder)
    given, unknown = statement_table(database, known.index)
    assert not unknown
    return database, given, benchmark_tasks(known)


@needs_full_table
@pytest.mark.parametrize(
    ("name", "classes", "records", "labels", "in_fold_10"),
    [
        ("all", 71, 21837, 61119, 2203),
        ("diagnostic", 44, 21430, 30793, 2163),
        ("subdiagnostic", 23, 21430, 30332, 2163),
        ("superdiagnostic", 5, 21430, 27826, 2163),
        ("form", 19, 8988, 12014, 882),
        ("rhythm", 12, 21066, 21210, 2103),
    ],
)
def test_the_six_tasks_have_the_published_counts(whole, name, classes, records, labels, in_fold_10):
    database, given, tasks = whole
    table = tasks[name].labels(given)
    any_class = table.any(axis=1)
    assert (len(tasks[name]), any_class.sum(), table.to_numpy().sum()) == (classes, records, labels)
    assert any_class[database.strat_fold == 10].sum() == in_fold_10


@needs_full_table
def test_superclasses_folds_and_patients_are_as_published(whole):
    database, given, tasks = whole
    labels = tasks["superdiagnostic"].labels(given)
    assert labels.sum().to_dict() == {"NORM": 9528, "MI": 5486, "STTC": 5250, "CD": 4907, "HYP": 2655}
    assert (~labels.any(axis=1)).sum() == 407
    folds = [2177, 2184, 2194, 2175, 2176, 2178, 2178, 2179, 2193, 2203]
    assert database.strat_fold.value_counts().sort_index().tolist() == folds
    assert database.patient_id.nunique() == 18885


@needs_full_table
def test_likelihood50_leaves_form_and_rhythm_as_they_are(whole):
    _, given, tasks = whole
    for name in ("form", "rhythm"):
        pd.testing.assert_frame_equal(tasks[name].labels(given), tasks[name].labels(given, label_policy="likelihood50"))
    diagnostic = tasks["diagnostic"].labels(given, label_policy="likelihood50")
    assert 20_000 < diagnostic.to_numpy().sum() < 30_793


@needs_full_table
@needs_published
@pytest.mark.parametrize(
    ("name", "n", "expected"),
    [
        ("all", 2203, 0.92544),
        ("diagnostic", 2163, 0.93481),
        ("form", 882, 0.84779),
        ("rhythm", 2103, 0.96384),
        ("superdiagnostic", 2163, 0.93206),
    ],
)
def test_a_published_models_answers_have_its_published_areas(whole, name, n, expected):
    """The benchmark's xresnet1d101, trained on all statements, on fold 10."""
    database, given, tasks = whole
    stored, own, task = np.load(PUBLISHED), tasks["all"], tasks[name]
    assert stored["statements"].tolist() == list(own.classes)
    rows = pd.Index(database.ecg_id).get_indexer(stored["ecg_id_fold10"])
    labels = task.labels(given.iloc[rows]).to_numpy()
    has_class = labels.any(axis=1)
    answer = own.answer(stored["probability_fold10"].astype(float), task)[has_class]
    labels = labels[has_class]
    assert len(labels) == n
    assert macro_auc(labels, answer) == pytest.approx(expected, abs=5e-6)
    np.testing.assert_allclose(per_class_auc(labels, answer), roc_auc_score(labels, answer, average=None))
