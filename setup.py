"""The loops of model/native; all else of the package stands in pyproject.toml.

Without a C compiler the package installs without them, and NumPy's code runs.
"""

from setuptools import Extension, setup

LOOPS = Extension(
    "model.native._loops",
    [
        f"model/native/{name}.c"
        for name in ("module", "novel", "best", "merge", "sieve", "wide_plain", "wide_avx2", "wide_avx512")
    ],
    depends=[f"model/native/{name}" for name in ("native.h", "wide.h", "wide.inc")],
    # every processor gives the same bits: nothing is fused, nor added in another order (which -O3 alone does not do).
    # Roots set no errno, so that there are wide ones
    extra_compile_args=["-std=gnu99", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno"],
    py_limited_api=True,
    optional=True,
)

setup(ext_modules=[LOOPS])
