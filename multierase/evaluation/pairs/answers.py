"""The answers of a study: a CSV file that grows by whole rows."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import multierase
from multierase.errors import AlreadyThere, UsageError, WriteError
from multierase.evaluation.pairs.study import CONDITIONS, SCALE, Question, Study
from multierase.files import plain, write_text

# What makes a spreadsheet read a cell as a formula, also in full width; and our own mark.
FORMULAS = tuple("=+-@＝＋－＠'")
MARK = "'"  # before such a cell: spreadsheets show it as text
LONGEST_NAME = 200
NUMBERS = {"seed": int, "rating": int, "seconds": float}

_writing = threading.Lock()  # of all files: answers are few


@dataclass(frozen=True)
class Answer:
    """A row of the file.

    Args:
        study: the study's id.
        participant: who has answered.
        question: the question's id.
        concept, condition: see ``Question``.
        prompt, seed, erased: of the sixth picture, which they make again; ``erased`` as JSON.
        rating: 1 to 5, see ``SCALE``.
        seconds: how long the participant took, 0 if that is not known.
        time: when, in UTC.
        version: of multierase.
        base: the name of the base.
    """

    study: str
    participant: str
    question: str
    concept: str
    condition: str
    prompt: str
    seed: int
    erased: str
    rating: int
    seconds: float
    time: str
    version: str
    base: str


COLUMNS = tuple(column.name for column in fields(Answer))


class Answers:
    """The answers to a study, in a CSV file that is made if it is not there.

    Several participants may answer at once, in threads of one process. Nothing that is in the file
    is changed. A participant who comes back goes on with what is ``remaining``.

    Args:
        path: of the CSV file; its folder must exist.
        study: whose questions are answered.

    Raises:
        UsageError: for a file with other columns, or of another study.
        WriteError: if the file cannot be made.
    """

    def __init__(self, path: str | Path, study: Study):
        self.path, self.study = Path(path), study
        with _writing:
            self._read()

    def add(
        self, participant: str, question: Question | str, rating: int, seconds: float = 0.0
    ) -> Answer:
        """Append an answer, flushed to the disk, or raise an error and change nothing.

        Args:
            participant: a name, of the participant's own choice; the same when coming back.
            question: the question, or its id.
            rating: 1 to 5.
            seconds: how long the participant took.

        Raises:
            ValueError: for a rating out of range, an unknown question, or one that this participant
                has answered.
            UsageError: if the file has become another study's.
            WriteError: if the disk is full, or the file cannot be written.
        """
        answer = self._answer(participant, question, rating, seconds)
        with _writing:
            for other in self._read():
                if (other.participant, other.question) == (answer.participant, answer.question):
                    raise ValueError(
                        f"{answer.participant} has answered {answer.question} already, with "
                        f"{other.rating}: an answer stays as it is; go on with the next question"
                    )
            _append(self.path, _line(astuple(answer)))

        return answer

    def remaining(self, participant: str) -> list[Question]:
        """Return what the participant has not answered, in the participant's own order."""
        name = _participant(participant)
        with _writing:
            done = {other.question for other in self._read() if other.participant == name}

        return [one for one in self.study.questions(name) if one.id not in done]

    def _answer(
        self, participant: str, question: Question | str, rating: int, seconds: float
    ) -> Answer:
        known = self.study.question(question if isinstance(question, str) else question.id)
        _require_rating(rating)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds is {seconds}, give a finite number, 0 or more")

        sixth = known.sixth
        return Answer(
            study=self.study.id,
            participant=_participant(participant),
            question=known.id,
            concept=known.concept,
            condition=known.condition,
            prompt=_one_line(sixth.prompt),
            seed=sixth.seed,
            erased=json.dumps(sixth.erased),
            rating=rating,
            seconds=round(float(seconds), 2),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            version=multierase.__version__,
            base=_one_line(self.study.base),
        )

    def _read(self) -> list[Answer]:
        """Return the file's answers; make the file if it is not there."""
        if not os.path.lexists(self.path):
            with contextlib.suppress(AlreadyThere):  # another process was quicker
                write_text(self.path, _line(COLUMNS), overwrite=False)

        answers = read_answers(self.path)
        others = {answer.study for answer in answers} - {self.study.id}
        if others:
            raise UsageError(
                f"{self.path} has answers to another study ({sorted(others)[0]}; this one is "
                f"{self.study.id}): give another file, or the base, library and settings of that "
                "study"
            )
        return answers


def read_answers(path: str | Path) -> list[Answer]:
    """Read a file of answers.

    Raises:
        FileNotFoundError: if there is none.
        UsageError: for a file with other columns, or a row that is no answer.
    """
    path = Path(path)
    if not path.is_file():
        if os.path.lexists(path):
            raise UsageError(f"{path} is no file: give the name of a CSV file")
        raise FileNotFoundError(f"no answers at {path}")

    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as a CSV file in UTF-8: {plain(error)}") from error

    columns = tuple(rows[0]) if rows else ()
    if columns != COLUMNS:
        raise UsageError(
            plain(
                f"{path} is no file of answers: its columns are {list(columns)!s:.200}, expected "
            )
            + f"{list(COLUMNS)}; give another file, this one is left as it is"
        )
    return list(_parsed(path, rows[1:]))


def _parsed(path: Path, rows: Sequence[Sequence[str]]) -> Iterator[Answer]:
    for number, row in enumerate(rows, 2):
        if not row:
            continue  # a blank line
        try:
            yield _answer_of(row)
        except ValueError as error:
            raise UsageError(
                plain(f"{path}, row {number} is no answer: {error}; mend or remove that row")
            ) from error


def _answer_of(row: Sequence[str]) -> Answer:
    cells = dict(zip(COLUMNS, map(_unmarked, row), strict=False))
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} cells, expected {len(COLUMNS)}")
    if cells["condition"] not in CONDITIONS:
        raise ValueError(f"condition is {cells['condition']!r:.40}, expected {list(CONDITIONS)}")

    numbers = {name: kind(cells[name]) for name, kind in NUMBERS.items()}
    _require_rating(numbers["rating"])
    return Answer(**{**cells, **numbers})


def _require_rating(rating: object) -> None:
    # True is an int, too; and 3.0 no rating that anybody can choose.
    if not isinstance(rating, int) or isinstance(rating, bool) or rating not in SCALE:
        raise ValueError(f"rating is {rating!r:.40}, give a whole number from 1 to {len(SCALE)}")


def _participant(name: str) -> str:
    """Return a participant's name as the file has it."""
    cleaned = _one_line(name.strip())
    if not 1 <= len(cleaned) <= LONGEST_NAME:
        raise ValueError(
            f"the participant's name {cleaned[:40]!r} has {len(cleaned)} characters, give 1 to "
            f"{LONGEST_NAME}"
        )

    return cleaned


def _one_line(text: str) -> str:
    """Return a text without control characters, so that each answer is one line of the file."""
    return plain(text).replace("\n", r"\n")


def _marked(cell: object) -> str:
    text = str(cell)

    return MARK + text if text.startswith(FORMULAS) else text


def _unmarked(cell: str) -> str:
    return cell.removeprefix(MARK)


def _line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(map(_marked, cells))

    return line.getvalue()


def _append(path: Path, line: str) -> None:
    """Append a line in one write, which other processes' writes do not part."""
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        before = os.fstat(descriptor).st_size
        os.lseek(descriptor, before - 1, os.SEEK_SET)
        # Some editors leave the last line open.
        data = line.encode() if os.read(descriptor, 1) == b"\n" else f"\n{line}".encode()
        if os.write(descriptor, data) != len(data):
            os.truncate(descriptor, before)
            raise WriteError(f"cannot write {path}: the disk is full; nothing was changed")
        os.fsync(descriptor)
    except WriteError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise WriteError(f"cannot write {path}: {reason}; nothing was changed") from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
