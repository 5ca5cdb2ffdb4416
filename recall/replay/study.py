"""The whole replay: twins, who tell the truth; the A/B run through the platform; the same test under other salts.

    twins      each arm a world, with the same users: the lift that is reported
    A/B run    one more world, in which the experiment assigns: its log, judged, against the twins
    salts      the assigner divides the twins anew, offline: do the verdict's intervals hold what they promise?
    mixed      one more world, in which every list is mixed out of both arms': whom do users prefer?

Worlds are kept in the work folder; one that was played with the same bundles, users and script is not played again.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import polars as pl

from index.bundle.manifest import Manifest
from recall.replay.arms import CONTROL, TREATMENT
from recall.replay.audiences.audience import ACTIONS, EXPECTED, OF_LIST, PLAYS, Audience
from recall.replay.lifts import TwinLift, twin_lifts
from recall.replay.preferences import Agreement, agreements, interleaving_of, read_preferences
from recall.replay.salts import CONTROL as CONTROL_KEY
from recall.replay.salts import Outcomes, Tally, try_salts
from recall.replay.trial import TrialRun, differing, in_log, judge_trial, play_logged, run_trial
from recall.replay.world import Script, live, open_world
from service.consumer.credits import METRICS

DIGITS = 6  # of a sum, in a digest: the last bits of a float depend on the order of addition
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Study:
    """The part of a replay that its options decide."""

    audience: Audience
    arms: Mapping[str, Path]  # control first
    script: Script
    folder: Path
    seed: int
    say: Say

    def twins(self, dropped: int) -> dict[str, pl.DataFrame]:
        """Arm -> what everybody does in the world in which all have it."""
        return {arm: self._world(arm, replace(self.script, arm=arm, dropped=dropped)) for arm in self.arms}

    def trial(self, twins: Mapping[str, pl.DataFrame], users_a_request: int) -> TrialRun:
        """The A/B run; not kept, so that every replay goes through the platform once."""
        script = replace(self.script, users_a_request=users_a_request)
        self.say("A/B run: assignment, exposures, feedback, consumer, verdict")
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            _, logged = run_trial(self.arms, self.audience, script, Path(folder), f"replay-{self.seed}")
        verdict = judge_trial(self.audience, logged, TREATMENT)
        by_variation = {CONTROL_KEY: twins[CONTROL], TREATMENT: twins[TREATMENT]}
        return TrialRun(verdict, logged.height, differing(logged, by_variation, in_log(self.audience.metrics())))

    def preferences(self, dropped: int) -> pl.DataFrame:
        """One row a user of the event log of a world of interleaved lists: METRIC:VARIATION for both variations."""
        script = replace(self.script, arm=None, dropped=dropped)
        facts = self._facts(script) | {"bundles": [*map(digest_of_bundle, self.arms.values())]}
        # a world that was kept with other credits lacks some of these
        facts["interleaved"] = METRICS

        def play(folder: Path) -> pl.DataFrame:
            experiment = interleaving_of(f"replay-{self.seed}", *self.arms)
            played = play_logged(self.arms, self.audience, script, folder, experiment)
            if disturbed := int(played["disturbed"].sum()):
                self.say(f"{disturbed} interleaved lists were changed by a busy machine")
            return read_preferences(folder / "events")

        return self._kept(facts, f"interleaved, {dropped} dropped", play)

    def agreements(self, dropped: int, lifts: Sequence[TwinLift], draws: int) -> list[Agreement]:
        """How often the preference of a draw of the interleaved users has the sign of the twins' lift, by metric."""
        return agreements(self.preferences(dropped), lifts, TREATMENT, draws, self.seed)

    def lifts(self, twins: Mapping[str, pl.DataFrame]) -> list[TwinLift]:
        """The true lift of every metric, of its chance where it is drawn from one, and of plays list by list."""
        lists = [f"{PLAYS}{OF_LIST}{number}" for number in range(1, self.script.sessions + 1)]
        names = [*self.audience.metrics(), *self._expected(twins[CONTROL]), *lists]
        return twin_lifts(twins[CONTROL], twins[TREATMENT], names)

    def salts(self, twins: Mapping[str, pl.DataFrame], salts: int) -> dict[str, Tally]:
        """Tallies of every metric that a log has, and of plays with the pre-period as covariate."""
        self.say(f"{salts} salts: the assigner divides the twins anew")
        control, treatment = (twins[arm] for arm in (CONTROL, TREATMENT))
        outcomes = {
            name: Outcomes(control=control[name].to_numpy(), treatment=treatment[name].to_numpy())
            for name in in_log(self.audience.metrics())
            if control[name].sum() > 0
        }
        before = control["plays_before"].to_numpy()
        outcomes[f"{PLAYS}, CUPED"] = replace(outcomes[PLAYS], covariate=before)
        return try_salts(outcomes, self.audience.users, salts, self.seed)

    @staticmethod
    def _expected(frame: pl.DataFrame) -> list[str]:
        names = [f"{name}{EXPECTED}" for name in (PLAYS, *ACTIONS)]
        return [name for name in names if name in frame.columns]

    def _world(self, arm: str, script: Script) -> pl.DataFrame:
        """The rows of the world in which everybody has this arm; no other is served there."""
        facts = self._facts(script) | {"bundle": digest_of_bundle(self.arms[arm])}

        def play(folder: Path) -> pl.DataFrame:
            with open_world({arm: self.arms[arm]}, folder) as place:
                return live(place.url, self.audience, script)

        return self._kept(facts, f"{arm}, {script.dropped} dropped", play)

    def _kept(self, facts: Mapping[str, object], name: str, play: Callable[[Path], pl.DataFrame]) -> pl.DataFrame:
        """The rows of the world with these facts; played, in an empty folder, where they are not kept yet."""
        kept = KeptWorld(self.folder / "worlds", facts)
        if (frame := kept.read()) is not None:
            self.say(f"{name}: played before")
            return frame
        self.say(f"{name}: {len(self.audience.users):,} users")
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            frame = play(Path(folder))
        kept.write(frame)
        return frame

    def _facts(self, script: Script) -> dict[str, object]:
        # in which groups users ask changes no list
        script_facts = {name: value for name, value in asdict(script).items() if name != "users_a_request"}
        users = hashlib.sha256(self.audience.users.tobytes()).hexdigest()[:16]
        # with other signals, or none, a service takes other histories
        signals = self.audience.past(int(self.audience.users[0])).signals
        told = {"signals": dict(signals)} if signals else {}
        return {"audience": self.audience.name, "seed": self.seed, "users": users} | told | script_facts


@dataclass(frozen=True, slots=True)
class KeptWorld:
    """A world's rows in a folder, under a name that follows from everything they depend on."""

    folder: Path
    facts: Mapping[str, object]

    @property
    def path(self) -> Path:
        name = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{name}.parquet"

    def read(self) -> pl.DataFrame | None:
        return pl.read_parquet(self.path) if self.path.exists() else None

    def write(self, frame: pl.DataFrame) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".tmp")
        frame.write_parquet(fresh)
        # in one step: a replay that was interrupted leaves no half of a world
        fresh.replace(self.path)


def digest_of_bundle(path: Path) -> str:
    return Manifest.parse((path / "manifest.json").read_bytes()).digest


def digest_of(frames: Sequence[pl.DataFrame]) -> str:
    """The same for the same reactions of the same users: what two runs of one seed must share."""
    state = hashlib.sha256()
    for frame in frames:
        names = sorted(set(frame.columns) - {"disturbed"})
        rounded = frame.select(names).with_columns(pl.col(pl.Float64).round(DIGITS))
        state.update(rounded.write_csv().encode())
    return state.hexdigest()[:16]
