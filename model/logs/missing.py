"""Words that say that a value is missing, and the reason that is given for it: the same for ids, times and signals."""

import polars as pl

# As databases, pandas, R, spreadsheets and JavaScript write them; none of them is an id.
NULL_WORDS = (
    *("null", "NULL", "Null", "nan", "NaN", "NAN", "None", "NA", "<NA>", "N/A", "n/a", "#N/A", "\\N", "NaT"),
    *("nil", "undefined"),
)


def missing_reason(name: str, label: str) -> pl.Expr:
    """`user id is empty`, or `user id is missing: NULL`; null where there is a value."""
    return (
        pl.when(pl.col(name).fill_null("") == "")
        .then(pl.lit(f"{label} is empty"))
        .when(pl.col(name).is_in(list(NULL_WORDS)))
        .then(pl.format("{} is missing: {}", pl.lit(label), pl.col(name)))
    )
