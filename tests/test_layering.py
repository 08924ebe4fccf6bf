"""How data flows is how the package reads: a module imports only from those above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import multierase

ROOT = Path(multierase.__file__).parent
ORDER = """
errors files sampling
prompts prompts.lists prompts.wording prompts.kind emoji prompts.concepts prompts.concept_lists
models models.scopes models.conditioning models.text models.guidance models.model models.unet
models.flow models.resolution models.stable_diffusion models.sdxl models.sd3 models.flux
models.flux2 models.offload models.sources models.folders models.single_files models.loading
models.weights models.soft_text models.latents
increments increments.provenance increments.fingerprint increments.container increments.layout
increments.header increments.value increments.compression increments.format increments.hub
increments.library
separation separation.directions separation.cache separation.vocabulary separation.forms
separation.dictionary
separation.keep_list
separation.solves separation.changes separation.crosstalk separation.fitting
training training.settings training.optimizers training.defaults training.beside
training.trajectories
training.trial training.certificate training.questions training.sentences training.plan
training.objectives
training.stopping training.examples
training.estimate training.closed_form training.delta training.erasure training.watching
training.checkpoint
training.loop training.adversary
methods methods.fine_tuning methods.esd methods.sepme methods.closed methods.uce methods.rece
methods.mace methods.speed methods.oce methods.double_projection
methods.task_vector
composer generate pictures interop interop.original_names interop.original
interop.naming interop.outgoing interop.metadata interop.pipeline interop.targets
interop.targets.kohya interop.targets.diff interop.targets.diffusers interop.targets.hub
interop.exporting interop.reading interop.sources interop.sources.peer
interop.sources.refused interop.sources.folder interop.sources.esd
interop.sources.concept_ablation interop.sources.full interop.sources.bare
interop.sources.low_rank interop.sources.mace interop.sources.kohya interop.sources.peft
interop.sources.choice interop.differences interop.parts interop.projecting interop.importing
workspace serving interop.eval_unlearn
executors executors.executor executors.processes executors.ray executors.choice many
evaluation evaluation.attacks evaluation.experiment evaluation.concept_sets evaluation.cases
evaluation.suites
evaluation.weights evaluation.statistics
evaluation.pairs evaluation.pairs.study evaluation.pairs.answers evaluation.pairs.summary
evaluation.judges evaluation.judges.embedded evaluation.attacks.attack
evaluation.attacks.unlearn_diff evaluation.attacks.p4d evaluation.attacks.ring_a_bell
evaluation.attacks.inversion evaluation.attacks.relearning evaluation.attacks.noised
evaluation.attacks.random_tokens evaluation.attacks.run
evaluation.judges.clip evaluation.judges.classifiers evaluation.judges.nudity evaluation.measures
evaluation.observations evaluation.instruments evaluation.attacks.asking evaluation.erasers
evaluation.evaluator
evaluation.reference evaluation.database evaluation.store evaluation.report
evaluation.report.attacked evaluation.report.rows evaluation.sweep evaluation.predictions
evaluation.attacks.campaign
evaluation.evaluate evaluation.report.tables evaluation.report.html evaluation.report.files
shows demo doctor
app app.session app.looking app.sweeping app.exchanging app.studying app.curve app.plainly
app.parts app.compose app.erase app.look app.exchange app.pairs app.page
cli cli.third_parties cli.flags cli.option_groups cli.options_evaluation cli.options_tools
cli.options cli.completion cli.console cli.parser
cli.requests cli.verbs cli.verbs.doctor cli.verbs.completion cli.verbs.library cli.verbs.erase
cli.verbs.pictures cli.verbs.evaluate cli.verbs.attack
cli.verbs.certify cli.verbs.exchange
cli.verbs.demo cli.verbs.app cli.main
__main__
"""
MODULES = ["multierase", *(f"multierase.{name}" for name in ORDER.split())]
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = ("multierase", *path.relative_to(ROOT).with_suffix("").parts)

    return ".".join(parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of ours that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` imports the module.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [node.module, *(name for name in inner if name in MODULES)]
        yield from (name for name in names if name.partition(".")[0] == "multierase")


def test_every_module_has_its_place():
    assert sorted(map(name_of, FILES)) == sorted(MODULES)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_upwards(path):
    place = MODULES.index(name_of(path))
    assert {name for name in imported(path) if MODULES.index(name) >= place} == set()
