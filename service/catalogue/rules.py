"""The rules of a request against the attributes that a catalogue has."""

from model.attributes.columns import Kind
from model.attributes.filters import parse_filter
from model.attributes.table import BadAttribute
from model.catalogue import Catalogue
from model.rules import ListRules
from service.catalogue.snapshot import required
from service.errors import BadRequest


def check_rules(rules: ListRules, catalogue: Catalogue) -> None:
    """Raises BadRequest for rules that the attributes of these items do not allow, and says why."""
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
