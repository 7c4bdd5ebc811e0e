"""All students of a candidate: any division among processes, any kill, the same result."""

from dataclasses import replace

import pytest
import torch
from lightning import Callback

from geodm_lightning.evaluation.candidate import candidate_from_set
from geodm_lightning.evaluation.record import DivergedError
from geodm_lightning.evaluation.students import evaluate_students
from geodm_lightning.evaluation.supervision import HARD, Supervision
from geodm_lightning.processes import Processes
from geodm_lightning.reporting.tracking import CsvTracker, read_metrics
from geodm_lightning.site import Site
from geodm_lightning.types import InputError

# lightning 2.6 on torch 2.15

CPU = torch.device("cpu")
ALONE = Site(CPU)


class Unsynchronised(Processes):
    """A place among processes that are run one after the other."""

    def barrier(self) -> None:
        return


@pytest.fixture
def evaluate(digits, candidate, tiny_a, tmp_path):
    def run(site=ALONE, **changes):
        arguments = {
            "test": digits.test, "protocol": tiny_a, "seed": 0, "folder": tmp_path / "students",
            "site": site, **changes,
        }  # fmt: skip
        return evaluate_students(arguments.pop("candidate", candidate), **arguments)

    return run


def outcomes(result):
    """Everything about the students but their speed."""
    return [replace(student, seconds=0.0) for student in result.students]


def test_division_among_processes_changes_nothing(evaluate, tmp_path):
    alone = evaluate()
    folder = tmp_path / "shared"
    places = [Site(CPU, processes=Unsynchronised(rank, 2)) for rank in (0, 1)]
    with pytest.raises(InputError, match=r"students \[1\] on Random"):
        evaluate(places[0], folder=folder)
    assert len(list(folder.glob("*.json"))) == 1
    divided = evaluate(places[1], folder=folder)
    assert outcomes(divided) == outcomes(alone)


def test_students_at_once_reach_what_they_reach_alone(evaluate, tiny_a, tmp_path):
    protocol = replace(tiny_a, num_students=5)
    alone = evaluate(protocol=protocol)
    folder = tmp_path / "shared"
    places = [Site(CPU, processes=Unsynchronised(rank, 2)) for rank in (0, 1)]
    with pytest.raises(InputError, match=r"students \[1, 3\] on Random"):
        evaluate(places[0], protocol=protocol, folder=folder, together=2)
    divided = evaluate(places[1], protocol=protocol, folder=folder, together=2)
    for found, expected in zip(divided.students, alone.students, strict=True):
        assert (found.index, found.num_steps) == (expected.index, expected.num_steps)
        assert found.loss == pytest.approx(expected.loss, rel=1e-4)
        assert found.accuracy == pytest.approx(expected.accuracy, abs=2 / 360)
    names = {path.name for path in folder.iterdir()}
    # Nothing tells how many there were at once.
    assert names == {path.name for path in (tmp_path / "students").iterdir()}


def test_a_kill_loses_no_more_than_the_students_at_once(evaluate, tiny_a, tmp_path):
    protocol = replace(tiny_a, num_students=5)

    class Killed(BaseException):
        """What nobody catches."""

    class Killer(Callback):
        """Ends the third training, after two of two students at once."""

        trainings = 0

        def on_train_start(self, trainer, pl_module):
            self.trainings += 1
            if self.trainings == 3:
                raise Killed

    with pytest.raises(Killed):
        evaluate(protocol=protocol, together=2, callbacks=[Killer()])
    done = sorted((tmp_path / "students").glob("*.json"))
    assert [path.stem[-1] for path in done] == ["0", "1", "2", "3"]
    before = {path: path.read_bytes() for path in done}
    result = evaluate(protocol=protocol, together=2)
    assert {path: path.read_bytes() for path in done} == before
    assert [student.index for student in result.students] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("together", [1, 2])
def test_a_student_that_diverges_is_kept_and_no_other_is_begun(
    evaluate, tiny_a, tmp_path, together
):
    """Every process says so, of its own students or of others, now and when started again."""
    protocol = replace(tiny_a, num_students=6, lr=1e30)
    places = [Site(CPU, processes=Unsynchronised(rank, 2)) for rank in (0, 1)]
    told = []
    for place in (*places, *places):
        with pytest.raises(DivergedError, match="student 0 on Random is not finite") as caught:
            evaluate(place, protocol=protocol, together=together)
        told.append((caught.value.index, caught.value.step))
        records = {p: p.stat().st_mtime_ns for p in (tmp_path / "students").iterdir()}
        assert len(records) == 1
    assert len(set(told)) == 1
    assert evaluate(protocol=replace(protocol, lr=tiny_a.lr)).accuracies


def test_trials_of_how_many_at_once_leave_no_trace(evaluate, tiny_a, tmp_path):
    """What auto trains is, bit by bit, what the number it has taken trains."""
    protocol = replace(tiny_a, num_students=3, epochs=80, batch_size=100)
    lines = []
    auto = evaluate(protocol=protocol, together="auto", report=lines.append)
    (size,) = [int(line.split(": ")[1].split(" ")[0]) for line in lines]
    fixed = evaluate(protocol=protocol, together=size, folder=tmp_path / "fixed")
    assert outcomes(auto) == outcomes(fixed)


def test_students_at_once_log_under_their_own_names(evaluate, tiny_a, tmp_path):
    path = tmp_path / "metrics.csv"
    result = evaluate(
        protocol=replace(tiny_a, num_students=3), together=3,
        loggers=lambda index: [CsvTracker(path, stage="student", series=f"random/{index}")],
    )  # fmt: skip
    metrics = read_metrics(path)["student"]
    assert set(metrics) == {"random/0", "random/1", "random/2"}
    for student in result.students:
        curves = metrics[f"random/{student.index}"]
        assert curves["student/accuracy"] == ([16], [student.accuracy])
        assert curves["student/loss"].steps == [0]


def test_students_of_one_evaluation_differ(evaluate):
    result = evaluate()
    assert len({student.loss for student in result.students}) == 2


def test_only_a_missing_student_is_trained_again(evaluate, tmp_path):
    before = evaluate()
    files = sorted((tmp_path / "students").glob("*.json"))
    files[1].unlink()
    stamps = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    after = evaluate()
    assert outcomes(after) == outcomes(before)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert after.students[0] == before.students[0]
    assert after.students[1].seconds != before.students[1].seconds


def test_another_protocol_or_set_is_trained_anew(evaluate, digits, make_set, tiny_a, tmp_path):
    one = replace(tiny_a, num_students=1)
    evaluate(protocol=one)
    changed = make_set()
    changed.images[0] = 1 - changed.images[0]
    other = candidate_from_set(changed, spec=digits.spec, device=CPU)
    evaluate(candidate=other, protocol=one)
    evaluate(protocol=replace(one, lr=0.02))
    assert len(list((tmp_path / "students").glob("*.json"))) == 3


def test_more_students_keep_those_there_are(evaluate, tiny_a):
    few = evaluate(protocol=replace(tiny_a, num_students=1))
    many = evaluate(protocol=replace(tiny_a, num_students=2))
    assert many.students[0] == few.students[0]
    assert len(many.students) == 2


def test_damaged_record_is_named(evaluate, tiny_a, tmp_path):
    evaluate(protocol=replace(tiny_a, num_students=1))
    path = sorted((tmp_path / "students").glob("*.json"))[0]
    path.write_text(path.read_text()[:20])
    with pytest.raises(InputError, match=path.name):
        evaluate(protocol=tiny_a)


def test_dropout_is_keyed_by_the_student(evaluate, tiny_a, tmp_path):
    protocol = replace(
        tiny_a, network="mobilenetv3_small_050", network_options={"drop_rate": 0.5}, epochs=1,
        num_students=1,
    )  # fmt: skip
    torch.manual_seed(1)
    first = evaluate(protocol=protocol, folder=tmp_path / "a")
    state = torch.manual_seed(2).get_state()
    second = evaluate(protocol=protocol, folder=tmp_path / "b")
    assert outcomes(first) == outcomes(second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shift", [0, 1])
def test_students_answer_what_the_set_taught_them(evaluate, digits, make_set, tiny_a, shift):
    """Labels moved by one must be answered moved by one: nothing else has told the classes."""
    distilled = make_set()
    moved = distilled._replace(labels=(distilled.labels + shift) % 10)
    candidate = candidate_from_set(moved, spec=digits.spec, device=CPU)
    protocol = replace(
        tiny_a, epochs=40, num_students=1, augmentation="none", network_options={"width": 16}
    )
    result = evaluate(candidate=candidate, protocol=protocol)
    assert result.students[0].train_accuracy > 0.9
    if shift:
        assert result.mean < 0.1  # below chance: every right answer is a wrong one
    else:
        assert result.mean > 0.5


def test_logs_every_student_under_its_name(evaluate, tiny_a, tmp_path):
    path = tmp_path / "metrics.csv"
    result = evaluate(
        protocol=replace(tiny_a, num_students=2),
        loggers=lambda index: [CsvTracker(path, stage="student", series=f"random/{index}")],
    )
    metrics = read_metrics(path)["student"]
    assert set(metrics) == {"random/0", "random/1"}
    for student in result.students:
        curves = metrics[f"random/{student.index}"]
        assert curves["student/accuracy"] == ([16], [student.accuracy])
        assert curves["student/loss"].steps == [0]


class Wrong:
    """A labeller whose teachers answer every image with the class after its own."""

    num_classes = 10

    def __init__(self, labels, name="wrong"):
        self.labels, self.name = labels, name

    def logits(self, epoch, indices, images):
        return 6.0 * torch.nn.functional.one_hot((self.labels[indices] + 1) % 10, 10).float()

    def identity(self):
        return self.name


LIA = Supervision("lia", "LIA", ce=0.0, mse=1.0, teachers="all")


def test_students_believe_their_teachers(evaluate, candidate, tiny_views):
    """Without a word on the classes, wrong teachers make students that are wrong in their way."""
    protocol = replace(
        tiny_views, epochs=30, lr=0.02, num_students=1, network_options={"width": 16},
        views={"cutmix_probability": 0.0},
    )  # fmt: skip
    result = evaluate(protocol=protocol, supervision=LIA, labeller=Wrong(candidate.labels))
    hard = evaluate(protocol=protocol)
    assert hard.mean > 0.5
    assert result.mean < 0.1
    assert (result.supervision, result.label_identities) == (LIA, {"0": "wrong"})
    assert (hard.supervision, hard.label_identities, hard.teachers) == (HARD, {}, ())


def test_other_labels_or_supervision_are_trained_anew(evaluate, candidate, tiny_views, tmp_path):
    protocol = replace(tiny_views, num_students=1, epochs=1)
    taught = {"protocol": protocol, "supervision": LIA, "teachers": ["a", "b"]}
    first = evaluate(**taught, labeller=Wrong(candidate.labels))
    assert first.teachers == ("a", "b")
    again = evaluate(**taught, labeller=Wrong(candidate.labels))
    assert again.students == first.students  # to the second they took
    evaluate(**taught, labeller=Wrong(candidate.labels, "other"))
    evaluate(**{**taught, "supervision": replace(LIA, mse=2.0)}, labeller=Wrong(candidate.labels))
    evaluate(protocol=protocol)
    assert len(list((tmp_path / "students").glob("*.json"))) == 4


@pytest.mark.parametrize(
    ("changes", "labeller", "named"),
    [
        ({}, None, "supervision lia needs labels of teachers; run the stage relabel"),
        ({"views": None}, Wrong(None), "protocol E has none; set protocol.views"),
        ({"augmentation": "color"}, Wrong(None), "teachers have not seen augmentation 'color'"),
    ],
)
def test_what_cannot_be_taught_is_refused_first(evaluate, tiny_views, changes, labeller, named):
    with pytest.raises(InputError, match=named):
        evaluate(protocol=replace(tiny_views, **changes), supervision=LIA, labeller=labeller)


def test_teachers_of_other_classes_are_refused(evaluate, tiny_views):
    labeller = Wrong(None)
    labeller.num_classes = 1000
    with pytest.raises(InputError, match="know 1000 classes, the data set has 10"):
        evaluate(protocol=tiny_views, supervision=LIA, labeller=labeller)


def test_result_tells_what_was_judged(evaluate, tiny_a):
    result = evaluate(provenance={"revision": "abc"})
    assert (result.method, result.label, result.dataset) == ("random", "Random", "digits")
    assert (result.ipc, result.num_images, result.schedule_share) == (10, 100, None)
    assert (result.protocol, result.provenance) == (tiny_a, {"revision": "abc"})
    assert {student.num_steps for student in result.students} == {16}
