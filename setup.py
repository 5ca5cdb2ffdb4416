"""The compiled pass of model/fused; all else of the package stands in pyproject.toml.

Without a C compiler the package installs without it, and torch computes.
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

setup(ext_modules=[DECODER])
