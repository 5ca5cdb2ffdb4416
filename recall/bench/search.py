"""The search for the highest rate that a service holds: one rule for `recall bench` and for its peers."""

from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RateSearch:
    """Raises the rate until one fails, then halves the gap; a rate fails when it fails twice in a row."""

    start: float
    growth: float = 1.6
    closeness: float = 1.08  # of the lowest rate that failed to the highest that held, where the search ends
    least: float = 1.0  # below this, in requests a second, no closer answer is looked for

    def run(self, holds: Callable[[float], bool], say: Say = lambda _: None) -> float:
        """The highest rate that held; 0 when none did. `holds` measures a rate, anew each time it is called."""

        def holds_in_two_tries(rate: float) -> bool:
            if holds(rate):
                return True
            # one stall of the machine must not end the search
            say(f"{rate:8,.0f}/s did not hold; once more, as the machine may have stalled")
            return holds(rate)

        low, high = 0.0, self.start
        while holds_in_two_tries(high):
            low, high = high, high * self.growth
        while high > self.closeness * max(low, self.least):
            middle = (low + high) / 2
            low, high = (middle, high) if holds_in_two_tries(middle) else (low, middle)
        return low
