"""The compiled code of model/fused and model/native; all else of the package stands in pyproject.toml.

Without a C compiler the package installs without them: torch computes what model/fused would, NumPy what model/native
would.
"""

from setuptools import Extension, setup

DECODER = Extension(
    "model.fused._decoder",
    ["model/fused/decoder.c", "model/fused/layers.c"],
    depends=["model/fused/decoder.h", "model/fused/layers.h", "model/fused/vectors.h"],
    # products and sums are fused, everywhere alike; nothing is added in another order (which -O3 alone does not do)
    extra_compile_args=["-std=gnu11", "-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno"],
    py_limited_api=True,  # it knows nothing of Python
    optional=True,
)
PARTS = ("module", "novel", "best", "merge", "sieve", "wide_plain", "wide_avx2", "wide_avx512")
LOOPS = Extension(
    "model.native._loops",
    [f"model/native/{name}.c" for name in PARTS],
    depends=[f"model/native/{name}" for name in ("native.h", "wide.h", "wide.inc")],
    # every processor gives the same bits: nothing is fused that the source does not fuse. Roots set no errno, so that
    # there are wide ones
    extra_compile_args=["-std=gnu99", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno"],
    py_limited_api=True,
    optional=True,
)

setup(ext_modules=[DECODER, LOOPS])
