"""A head moves a query vector and nothing else; what does not fit is refused."""

import numpy as np
import pytest

from model.outcomes.files import load_heads, save_heads
from model.outcomes.heads import OutcomeFit, OutcomeHeads, check_outcomes

FITS = (OutcomeFit("like", 12, 3, 1e-3, "recall@50", 0.2, 0.21), OutcomeFit("follow", 4, 0))
RNG = np.random.default_rng(0)
PLAIN = RNG.normal(size=(3, 6)).astype(np.float32)


def heads(fits=FITS, dim=6, rank=2, fill=None):
    shapes = (len(fits), rank, dim), (len(fits), dim, rank), (len(fits), dim)
    made = (RNG.normal(size=shape) if fill is None else np.full(shape, fill) for shape in shapes)
    return OutcomeHeads(fits, *(part.astype(np.float32) for part in made))


def test_a_head_adds_two_thin_products_and_a_shift():
    own = heads()
    expected = [q + own.up[1] @ (own.down[1] @ q) + own.shift[1] for q in PLAIN.astype(np.float64)]
    np.testing.assert_allclose(own.vectors("follow", PLAIN), expected, rtol=1e-5, atol=1e-5)


def test_a_head_of_zeros_gives_the_plain_vectors_to_the_bit():
    assert (heads(fill=0.0).vectors("like", PLAIN) == PLAIN).all()


def test_what_is_saved_is_read_again(tmp_path):
    own = heads()
    save_heads(own, tmp_path / "heads.safetensors")
    read = load_heads(tmp_path / "heads.safetensors", own.facts)
    assert read.fits == own.fits
    assert all((read.vectors(name, PLAIN) == own.vectors(name, PLAIN)).all() for name in own.names)


@pytest.mark.parametrize("fits", [FITS[:1], (FITS[0], FITS[0]), (*FITS, OutcomeFit("share", 1, 1))])
def test_heads_that_do_not_fit_their_names_are_refused(fits):
    with pytest.raises(ValueError, match="do not fit each other"):
        OutcomeHeads(fits, *(getattr(heads(), name) for name in ("down", "up", "shift")))


def test_a_head_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="is not finite"):
        heads(fill=np.nan)


def test_an_outcome_that_is_not_known_is_named_with_those_that_are():
    check_outcomes(["like"], ["like"])
    with pytest.raises(ValueError, match="'share' is no outcome of it; there are like, follow"):
        check_outcomes(["like", "share"], ["like", "follow"])
    with pytest.raises(ValueError, match="its training knew none"):
        check_outcomes(["like"], ())
