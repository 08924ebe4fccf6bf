"""Studies with blind pairs, as the page runs them: who is at which question. No Gradio here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from multierase.app.session import Session
from multierase.errors import UsageError
from multierase.evaluation.pairs.answers import Answers
from multierase.evaluation.pairs.study import Question, Study, StudySettings
from multierase.evaluation.pairs.summary import summary

FOLDER = "studies"  # in the library's folder; one CSV file per study


@dataclass(frozen=True)
class Asked:
    """A question as it is shown, without a word on where the sixth picture is from.

    Args:
        id, concept: the question's.
        left: questions that this participant has not answered, this one included.
        references, sixth: the pictures.
        since: when it was shown, in seconds of ``time.monotonic``.
    """

    id: str
    concept: str
    left: int
    references: Sequence[Image.Image]
    sixth: Image.Image
    since: float


class Studies:
    """The studies of one session; several participants may answer at once."""

    def __init__(self, session: Session):
        self.session = session
        self._open: dict[str, Study] = {}

    @property
    def folder(self) -> Path:
        """The folder of the answers, made when it is first needed."""
        folder = self.session.workspace.library.folder / FOLDER
        folder.mkdir(exist_ok=True)

        return folder

    def begin(self, concepts: Sequence[str], questions: int, seed: int) -> str:
        """Plan a study of these concepts, each erased in the composed set; return its id."""
        if not concepts:
            raise UsageError("choose the concepts that the study asks about")
        settings = StudySettings(list(concepts), questions=questions, seed=seed)
        with self.session.alone() as workspace:
            study = Study.of(workspace, settings)

        self._open[study.id] = study
        return study.id

    def next(self, study: str, participant: str) -> Asked | None:
        """Return the participant's next question; ``None`` when all are answered."""
        left = self._answers(study).remaining(participant)
        if not left:
            return None

        with self.session.lock:
            shown = self._study(study).pictures(left[0])
        return Asked(
            left[0].id,
            left[0].concept,
            len(left),
            shown.references,
            shown.sixth,
            time.monotonic(),
        )

    def answer(self, study: str, participant: str, asked: Asked, rating: int) -> None:
        """Write down a rating of 1 to 5."""
        seconds = time.monotonic() - asked.since
        self._answers(study).add(participant, asked.id, rating, round(seconds, 1))

    def prepare(self, study: str, participant: str) -> None:
        """Make the pictures of the question after the next, while somebody looks at this one."""
        left: list[Question] = self._answers(study).remaining(participant)
        with self.session.lock:
            for question in left[1:2]:
                self._study(study).pictures(question)

    def summary(self, study: str) -> dict[str, Any]:
        """Return the means with their intervals; see ``evaluation.pairs.summary``."""
        return summary(self._answers(study).path)

    def file(self, study: str) -> Path:
        """Return the file of the answers."""
        return self._answers(study).path

    def _study(self, id: str) -> Study:
        if id not in self._open:
            raise UsageError("this study is not open here: begin it, or go on with it, first")

        return self._open[id]

    def _answers(self, id: str) -> Answers:
        return Answers(self.folder / f"{self._study(id).id}.csv", self._study(id))
