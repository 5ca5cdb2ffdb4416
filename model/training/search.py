"""The search for a recipe's settings: Optuna suggests, the validation split judges, every trial is in a journal.

The test split is not read. Needs the extra `tune`. A search is started again after any interruption, by several
processes if wanted: the journal is a file that they share, and `trials` counts what it holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.data.sequences import SequenceData
from model.networks import SYSTEMS
from model.recipes.schema import Recipe
from model.training.fit import fit
from model.training.stages import EpochReport

if TYPE_CHECKING:
    import optuna

NETWORK, RATE = "network.", "learning_rate"


@dataclass(frozen=True, slots=True)
class Choice:
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Range:
    low: float
    high: float
    log: bool = False


# What is searched, of the settings a system has. The learning rate is that of the first stage; others keep their ratio.
SPACE: Mapping[str, Choice | Range] = {
    "network.dim": Choice((48, 64, 96, 128, 256)),
    "network.num_layers": Choice((1, 2, 3)),
    "network.num_heads": Choice((1, 2, 4)),
    "network.dropout": Range(0.1, 0.8),
    "network.spectral_start": Choice((0.0, 0.02, 0.05, 0.1)),
    "network.hidden_dim": Choice((64, 128, 256)),
    "network.prefixes_per_user": Choice((2, 4, 8)),
    "network.num_interests": Choice((2, 4, 8)),
    "network.mask_share": Range(0.1, 0.6),
    "batch_users": Choice((96, 128, 256, 512)),
    "ema_decay": Choice((0.99, 0.995, 0.998, 0.999)),
    "learning_rate": Range(3e-4, 4e-3, log=True),
}


@dataclass(frozen=True)
class Search:
    """One system on one data set."""

    recipe: Recipe
    data: SequenceData
    journal: Path
    device: str = "cpu"
    seed: int = 0
    only: tuple[str, ...] = ()  # names of SPACE; the rest stays as the recipe has it. () = all

    @property
    def space(self) -> dict[str, Choice | Range]:
        """Raises ValueError, with the names there are, for a setting that is not searched of this system."""
        whole = space_of(self.recipe)
        if unknown := set(self.only) - set(whole):
            what = f"{self.recipe.arm} has no {', '.join(sorted(unknown))} to search"
            raise ValueError(f"{what}; there are {', '.join(whole)}")
        return {name: where for name, where in whole.items() if not self.only or name in self.only}

    @property
    def name(self) -> str:
        """The name of the study in the journal: other data are another study."""
        return f"{self.data.name} {self.recipe.arm} {self.recipe.metric} {self.data.digest[:12]}"

    def run(self, trials: int, on_trial: Callable[["optuna.trial.FrozenTrial"], None] = lambda _: None) -> Recipe:
        """Tries until the journal holds `trials` that ended; returns the recipe of the best.

        Raises ValueError for a recipe without stages of its own, and when no trial was trained to its end.
        """
        if not self.recipe.stages:
            what = "tune its parts, each a section of its own" if self.recipe.parts else "it is not trained"
            raise ValueError(f"{self.recipe.arm} has no stages to search settings for: {what}")
        space = self.space
        import optuna  # noqa: PLC0415  (an extra)

        study = self._study(space)
        ended = [trial for trial in study.trials if trial.state.is_finished()]
        left = max(0, trials - len(ended))
        study.optimize(self._measure, n_trials=left, callbacks=[lambda _, trial: on_trial(trial)])
        if not [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]:
            raise ValueError(f"no trial of {self.name!r} was trained to its end; ask for more --trials")
        return with_settings(self.recipe, study.best_params)

    def _study(self, space: Mapping[str, Choice | Range]) -> "optuna.Study":
        import optuna  # noqa: PLC0415
        from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415

        self.journal.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(self.journal))),
            sampler=optuna.samplers.TPESampler(seed=self.seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=self.recipe.evaluate_every),
            study_name=self.name,
            direction="maximize",
            load_if_exists=True,
        )
        if not study.trials:
            # what is known to work is tried first
            study.enqueue_trial({k: v for k, v in settings_now(self.recipe).items() if k in space})
        return study

    def _measure(self, trial: "optuna.Trial") -> float:
        import optuna  # noqa: PLC0415

        recipe, epochs = with_settings(self.recipe, suggest(trial, self.space)), 0

        def on_epoch(report: EpochReport) -> None:
            nonlocal epochs
            epochs += 1
            if report.metric is not None:
                # epochs of all stages: trials are compared at equal effort
                trial.report(report.metric, epochs)
                if trial.should_prune():
                    raise optuna.TrialPruned

        # nothing of a trial is kept: no head of an outcome is trained for it
        checkpoint = fit(recipe, replace(self.data, outcomes={}), self.seed, self.device, on_epoch)
        trial.set_user_attr("seconds", round(checkpoint.provenance.training_seconds, 1))
        return checkpoint.provenance.metrics[recipe.metric]


def space_of(recipe: Recipe) -> dict[str, Choice | Range]:
    """The settings of the recipe's system that can be searched."""
    _, config = SYSTEMS[recipe.system]
    known = config.__dataclass_fields__
    return {k: v for k, v in SPACE.items() if not k.startswith(NETWORK) or k.removeprefix(NETWORK) in known}


def settings_now(recipe: Recipe) -> dict[str, Any]:
    """The recipe's own point in the space, without what it leaves to defaults or has outside."""
    own = {f"{NETWORK}{name}": value for name, value in recipe.network.items()}
    own |= {"batch_users": recipe.batch_users, "ema_decay": recipe.ema_decay, RATE: recipe.stages[0].learning_rate}
    return {name: own[name] for name, where in space_of(recipe).items() if name in own and _inside(where, own[name])}


def suggest(trial: "optuna.Trial", space: Mapping[str, Choice | Range]) -> dict[str, Any]:
    return {name: _suggest(trial, name, where) for name, where in space.items()}


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with some of SPACE set."""
    network = {name.removeprefix(NETWORK): value for name, value in settings.items() if name.startswith(NETWORK)}
    others = {name: value for name, value in settings.items() if not name.startswith(NETWORK) and name != RATE}
    factor = settings.get(RATE, recipe.stages[0].learning_rate) / recipe.stages[0].learning_rate
    stages = tuple(replace(stage, learning_rate=stage.learning_rate * factor) for stage in recipe.stages)
    return replace(recipe, network={**recipe.network, **network}, stages=stages, **others)


def _suggest(trial: "optuna.Trial", name: str, where: Choice | Range) -> Any:
    if isinstance(where, Choice):
        return trial.suggest_categorical(name, where.values)
    return trial.suggest_float(name, where.low, where.high, log=where.log)


def _inside(where: Choice | Range, value: float) -> bool:
    return value in where.values if isinstance(where, Choice) else where.low <= value <= where.high
