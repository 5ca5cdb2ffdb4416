"""The rules of a request against the attributes and outcomes that a bundle has."""

from collections.abc import Sequence

from model.attributes.columns import Kind
from model.attributes.filters import parse_filter
from model.attributes.table import BadAttribute
from model.catalogue import Catalogue
from model.outcomes.heads import check_outcomes
from model.rules import ListRules
from service.catalogue.snapshot import required
from service.errors import BadRequest


def check_rules(rules: ListRules, catalogue: Catalogue, outcomes: Sequence[str] = ()) -> None:
    """Raises BadRequest for rules that these items' attributes, or these outcomes, do not allow, and says why."""
    try:
        check_outcomes([] if rules.outcome is None else [rules.outcome], outcomes)
    except ValueError as error:
        raise BadRequest(f"outcome: {error}") from error
    texts = [text for text in (rules.filter, *(boost.filter for boost in rules.boosts)) if text is not None]
    decays = [boost.attribute for boost in rules.boosts if boost.attribute is not None]
    if not (texts or decays or rules.caps):
        return
    try:
        attributes = required(catalogue.attributes)
        for text in texts:
            parse_filter(text).check(attributes)
        for cap in rules.caps:
            if attributes.column(cap.attribute).type.kind is Kind.NUMBER:
                raise BadAttribute(f"{cap.attribute}: a cap counts equal values, and it holds numbers")
        for name in decays:
            if not attributes.column(name).type.is_comparable:
                raise BadAttribute(f"{name}: a decay needs numbers, and it holds {attributes.column(name).type}")
    except BadAttribute as error:
        raise BadRequest(str(error)) from error
