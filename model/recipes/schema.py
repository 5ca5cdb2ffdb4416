"""The settings of a recipe: stages of training, the search for a plan, and the recipe that holds them.

Defaults stand here once. Knows nothing of YAML (model/recipes/files.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from model.evaluation.metrics import NAMES
from model.records import Placement, PromptForm, PromptPlan

Loss = Literal["softmax", "bce", "bpr"]
Samples = Literal["windows", "prefixes"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of training with its own prompts and length."""

    num_epochs: int
    num_prompts: int = 0  # generated items before each real one while training (the paper's K)
    num_steps: int = 1  # states a place is trained with; every further one follows a soft item (PlanSearch.temperature)
    learning_rate: float = 1e-3
    objective: Literal["next", "pretrain"] = "next"  # the next item, or what the system itself pre-trains on
    loss: Loss | None = None  # None = the recipe's

    def __post_init__(self) -> None:
        if self.loss is not None:
            check_loss(self.loss)
        if self.objective not in ("next", "pretrain"):
            raise ValueError(f"objective is {self.objective!r}; it is next or pretrain")
        if self.objective == "pretrain" and self.loss is not None:
            raise ValueError("a pretrain stage has its system's own loss; loss belongs to a stage on the next item")
        if self.objective == "pretrain" and self.num_prompts:
            raise ValueError("a pretrain stage has no prompts; num_prompts belongs to a stage on the next item")
        if self.num_steps > 1 and (self.objective == "pretrain" or self.num_prompts):
            raise ValueError("a stage of several steps is on the next item and has no num_prompts")
        if not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps!r}; a stage has 1 at least")
        if self.num_epochs < 1:
            raise ValueError(f"num_epochs is {self.num_epochs}; a stage needs at least 1")
        if not isinstance(self.learning_rate, float) or not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate!r}; it is a number above 0, such as 0.001")


@dataclass(frozen=True, kw_only=True)
class Window:
    """The future that a place of a history is trained to rank: all of the next items at once, nearer ones more."""

    length: int = 1  # items; 1 = the next one alone
    decay: float = 1.0  # share of an item against the one before it

    def __post_init__(self) -> None:
        if not isinstance(self.length, int) or self.length < 1:
            raise ValueError(f"the window's length is {self.length!r}; it is a whole number of items, at least 1")
        if not isinstance(self.decay, float) or not 0 < self.decay <= 1:
            raise ValueError(f"the window's decay is {self.decay!r}; it is a number above 0 and up to 1, such as 0.9")
        if self.length == 1 and self.decay < 1:
            raise ValueError(
                "the window's decay needs a length of 2 at least; the next item alone has nothing behind it"
            )


def check_loss(loss: str) -> None:
    if loss not in get_args(Loss):
        raise ValueError(f"loss is {loss!r}; it is softmax, bce or bpr")


@dataclass(frozen=True, kw_only=True)
class PlanSearch:
    """The plans that are tried on the validation split after training; the best becomes the served plan."""

    cutoff: int = 10  # list length that is judged
    num_prompts: tuple[int, ...] = (0,)  # generated items a place, tried at each placement but none
    placements: tuple[Placement, ...] = (Placement.NONE,)
    num_steps: tuple[int, ...] = (1,)
    forms: tuple[PromptForm, ...] = (PromptForm.ARGMAX,)  # of the items that are generated behind the end
    temperature: float = 1.0  # of soft items, in training and in every plan
    sums: tuple[float, ...] = ()  # weights of the later steps in one query, tried beside quotas
    diversity: float = 0.0
    part_weights: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)  # of the later parts of a blend, against the first
    min_gain: float = 0.01  # a plan that costs more is taken only when it is better by this share

    def __post_init__(self) -> None:
        for count in self.num_prompts:
            PromptPlan(count)  # a number that no plan can have is refused before the training, not after it
        for num_steps in self.num_steps:
            PromptPlan(num_steps=num_steps)
        places = [placement for placement in self.placements if placement is not Placement.NONE]
        if max(self.num_prompts) > 0 and not places:
            raise ValueError(
                f"num_prompts is {max(self.num_prompts)}, and placements has no place for generated items; "
                "add placements: [tail] or [all]"
            )
        if places and max(self.num_prompts) == 0:
            raise ValueError(f"placements has {places[0]}, and num_prompts has no number above 0; add num_prompts: [1]")
        behind = max(self.num_steps) > 1 or (Placement.TAIL in self.placements and max(self.num_prompts) > 0)
        if PromptForm.SOFT in self.forms and not behind:
            raise ValueError("forms has soft, but no plan generates behind the end; add num_steps: [2]")
        if self.sums and max(self.num_steps) == 1:
            raise ValueError("sums joins several steps, and num_steps has one; add num_steps: [2]")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one arm is trained on one data set."""

    name: str
    arm: str
    system: str
    stages: tuple[Stage, ...]
    network: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple["Recipe", ...] = ()  # of a blend: each trained alone
    loss: Loss = "softmax"  # over the whole catalogue, or against one sampled item
    window: Window = Window()
    samples: Samples = "windows"  # whole histories with targets at each place, or every start of each with its own
    seen_in_loss: bool = True  # items of the history are ranked and wanted; False: left out, as lists leave them out
    batch_users: int = 256  # samples a batch
    equal_positions: bool = False  # in the loss; else every batch weighs the same, those of short histories too
    warmup_steps: int = 200
    weight_decay: float = 0.0
    ema_decay: float = 0.998  # weights are averaged over about 1 / (1 - decay) steps at most; 0 = off
    averaged_part: int = 9  # and over the last ninth of the steps at most; 3 = over the last third
    evaluate_every: int = 3  # epochs
    patience: int = 4  # evaluations without a better one
    metric: str = "ndcg@10"
    max_eval_users: int = 10_000
    plan: PlanSearch = field(default_factory=PlanSearch)

    def loss_of(self, stage: Stage) -> Loss:
        return stage.loss or self.loss

    @property
    def _has_other_loss(self) -> bool:
        return any(self.loss_of(stage) != "softmax" or stage.objective != "next" for stage in self.stages)

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """In the order they are trained: its own, or its parts'."""
        return sum((part.all_stages for part in self.parts), self.stages)

    def __post_init__(self) -> None:
        if bool(self.parts) != (self.system == "blend"):
            raise ValueError("parts are what a blend has, and only a blend")
        check_loss(self.loss)
        if self.stages and self.stages[-1].objective != "next":
            raise ValueError("the last stage is a pretrain stage; one on the next item must follow")
        for name in ("batch_users", "averaged_part", "evaluate_every", "patience", "max_eval_users"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is a whole number of at least 1")
        if self.samples not in get_args(Samples):
            raise ValueError(f"samples is {self.samples!r}; it is windows or prefixes")
        if self.samples == "prefixes" and self.equal_positions:
            raise ValueError("every prefix weighs the same as it is; samples: prefixes goes with no equal_positions")
        if self.samples == "prefixes" and any(s.num_prompts or s.num_steps > 1 for s in self.stages):
            raise ValueError("samples: prefixes goes with no stage of prompts or of several steps")
        if not isinstance(self.seen_in_loss, bool):
            raise ValueError(f"seen_in_loss is {self.seen_in_loss!r}; it is true or false")
        if not self.seen_in_loss and (self.samples != "prefixes" or self.window.length > 1 or self._has_other_loss):
            raise ValueError("seen_in_loss: false goes with samples: prefixes, the next item alone and the softmax")
        if not isinstance(self.warmup_steps, int) or self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps!r}; it is a whole number, 0 for none")
        if not isinstance(self.equal_positions, bool):
            raise ValueError(f"equal_positions is {self.equal_positions!r}; it is true or false")
        kind, _, cutoff = str(self.metric).partition("@")
        if kind not in NAMES or not cutoff.isdecimal() or int(cutoff) < 1:
            raise ValueError(f"metric is {self.metric!r}; it is one of {', '.join(NAMES)} at a length, such as ndcg@10")
