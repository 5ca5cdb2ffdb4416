"""From a file of any known format, or from nothing, to a prepared data set: what `recall prepare` calls.

data, report = prepare(PrepareOptions(input=Path("log.csv")))
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from model.data.categories import Categories, read_categories
from model.data.items import coverage, read_items, with_attributes
from model.data.kuairand import Target, read_kuairand
from model.data.kuairec import read_kuairec
from model.data.outcomes import Outcomes, describe_outcomes, mark_outcomes
from model.data.positives import select_positives
from model.data.sequences import SequenceData
from model.data.splits import Protocol, SplitRule, TimeCut, split_log
from model.data.summary import describe
from model.data.synthetic import SyntheticSpec, generate
from model.logs.columns import LogShape
from model.logs.events import SIGNALS, DataError, EventLog, ReadReport
from model.logs.feedback import read_feedback
from model.logs.files import stem
from model.logs.readers import Progress, read_log
from model.positive import PositiveRule

Format = Literal["s3rec", "recbole", "csv", "jsonl", "parquet", "events", "kuairand", "kuairec", "synthetic"]
FIXED = ("events", "kuairand", "kuairec", "synthetic")  # formats that are no logs of any shape
SHARES = (0.1, 0.1)  # of valid and test, by time


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """The log to read and the way to divide it."""

    format: Format | None = None  # None = guessed, file by file; synthetic without an input
    input: Path | None = None  # a file, a folder of files, a glob; for kuairand and events a folder; synthetic: nothing
    name: str | None = None  # of the data set; None = the input's stem
    split: Protocol | None = None  # None = by-time for kuairand, kuairec's own, leave-one-out for the others
    valid_share: float = SHARES[0]  # by-time: shares of all events
    test_share: float = SHARES[1]
    cut: TimeCut | None = None  # by-time: two times in the log's unit, in place of the shares
    k_core: int = 0
    positive: PositiveRule = field(default_factory=PositiveRule)
    outcomes: Outcomes = field(default_factory=dict)  # that an answer can be asked for; kuairand has its own
    target: Target = "long_view"  # kuairand: which exposures are positives
    max_bad_share: float = 0.01
    categories: Path | None = None  # JSON item -> attribute ids; s3rec looks for <stem>_item2attributes.json
    items: Path | None = None  # a table of items, whose columns become attributes
    more_inputs: tuple[Path, ...] = ()  # read as one log with `input`
    shape: LogShape = field(default_factory=LogShape)
    synthetic: SyntheticSpec = field(default_factory=SyntheticSpec)

    @property
    def protocol(self) -> Protocol:
        return self.split or ("by-time" if self.format == "kuairand" else "leave-one-out")

    @property
    def dataset_name(self) -> str:
        return self.name or (stem(self.input) if self.input else "synthetic")

    @property
    def is_synthetic(self) -> bool:
        return self.format == "synthetic" or (self.format is None and self.input is None)


def prepare(options: PrepareOptions, on_rows: Progress | None = None) -> tuple[SequenceData, ReadReport]:
    """Reads, checks, filters and divides; `on_rows` is told how much of a log has been read so far.

    Raises DataError, with the way out, for options that do not fit together and for data that cannot be used.
    """
    _check_options(options)
    if options.format in ("kuairand", "kuairec"):
        data, report = _read_divided(options)
        report.check(options.input, options.max_bad_share)
        return _with_table(data, report, options, None)
    log, report, categories = _read(options, on_rows)
    # Before anything is filtered: k-core could hide that half of a file did not parse.
    report.check(options.dataset_name, options.max_bad_share)
    num_events = len(log)
    log = mark_outcomes(select_positives(log, options.positive), options.outcomes)
    num_positives, held = len(log), [log]
    # handed over: with a reference left here a long log would stay in memory while it is divided
    del log
    data = split_log(options.dataset_name, held.pop(), _split_rule(options), categories)
    data = replace(data, positive=options.positive)
    notes = () if options.is_synthetic else tuple(describe(num_events, num_positives, data))
    notes += tuple(describe_outcomes(data.outcomes))
    return _with_table(data, replace(report, notes=(*report.notes, *notes)), options, categories)


def _with_table(
    data: SequenceData, report: ReadReport, options: PrepareOptions, categories: Categories | None
) -> tuple[SequenceData, ReadReport]:
    """The data set with the attributes of its items, and a sentence on them where they come from a table."""
    if options.items is None:
        return with_attributes(data, None, categories), report
    table = read_items(options.items)
    data = with_attributes(data, table, categories)
    return data, replace(report, notes=(*report.notes, coverage(data.catalogue, table)))


def _read_divided(options: PrepareOptions) -> tuple[SequenceData, ReadReport]:
    if options.format == "kuairand":
        return read_kuairand(_input(options), options.dataset_name, options.target)
    return read_kuairec(_input(options), options.dataset_name)


def _read(options: PrepareOptions, on_rows: Progress | None) -> tuple[EventLog, ReadReport, Categories | None]:
    if options.is_synthetic:
        made = generate(options.synthetic)
        topics = {str(item): (topic,) for item, topic in enumerate(made.topics.tolist(), start=1)}
        return made.log, ReadReport(len(made.log)), _categories(options) or topics
    if options.format == "events":
        return *read_feedback(_input(options)), _categories(options)
    inputs = [_input(options), *options.more_inputs]
    signals = () if options.positive.keeps_all and not options.outcomes else SIGNALS
    log, report = read_log(inputs, options.format, options.shape, on_rows, signals)
    return log, report, _categories(options)


def _categories(options: PrepareOptions) -> Categories | None:
    path = options.categories or _default_categories(options)
    return read_categories(path) if path else None


def _default_categories(options: PrepareOptions) -> Path | None:
    if options.format != "s3rec" or options.input is None:
        return None
    beside = options.input.with_name(f"{options.input.stem}_item2attributes.json")
    return beside if beside.is_file() else None


def _input(options: PrepareOptions) -> Path:
    if options.input is None:
        raise DataError(f"the format {options.format} needs an input path")
    return options.input


def _split_rule(options: PrepareOptions) -> SplitRule:
    seen_targets = options.format == "s3rec" or options.is_synthetic
    shares = options.valid_share, options.test_share
    return SplitRule(options.protocol, options.k_core, *shares, options.cut, seen_targets)


# Options that would have no effect are refused: a run must not seem to have done what it did not.
def _check_options(options: PrepareOptions) -> None:
    if options.format is not None and options.format not in get_args(Format):
        raise DataError(f"unknown format {options.format!r}; known are {', '.join(get_args(Format))}")
    if not 0 <= options.max_bad_share <= 1:
        raise DataError(f"max_bad_share is {options.max_bad_share}; it is a share, from 0 to 1")
    if options.format in FIXED and (options.shape != LogShape() or options.more_inputs):
        raise DataError(f"{options.format} has a form of its own; leave the names of columns and further inputs out")
    if options.format == "synthetic" and options.input is not None:
        raise DataError(f"synthetic makes its own log; leave out the input {options.input} or name its format")
    if options.format == "kuairec" and (options.split is not None or _selects(options)):
        raise DataError("kuairec has its own split and positives; leave split, shares, cut, k_core, positive out")
    if options.format == "s3rec" and options.protocol == "by-time":
        raise DataError("s3rec files hold an order but no times; use the split leave-one-out")
    if options.protocol == "by-time" and options.shape.in_order:
        raise DataError("a log without times cannot be cut by time; use the split leave-one-out")
    if options.protocol == "leave-one-out" and _cuts_by_time(options):
        raise DataError("shares and cut times belong to the split by-time; leave them out, or ask for by-time")
    if options.format == "kuairand":
        _check_kuairand(options)


def _check_kuairand(options: PrepareOptions) -> None:
    if options.target not in get_args(Target):
        raise DataError(f"unknown target {options.target!r}; known are {', '.join(get_args(Target))}")
    if options.protocol != "by-time" or _cuts_by_time(options):
        raise DataError("kuairand has its own split by date; leave split and cut out")
    if _selects(options):
        raise DataError(
            "kuairand has a fixed catalogue, its own categories and `target`; leave k_core, positive, categories out"
        )


def _selects(options: PrepareOptions) -> bool:
    others = options.k_core or not options.positive.keeps_all or options.categories is not None
    return bool(others) or _cuts_by_time(options)


def _cuts_by_time(options: PrepareOptions) -> bool:
    return options.cut is not None or (options.valid_share, options.test_share) != SHARES
