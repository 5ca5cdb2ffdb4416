"""Native: the loops of a request that NumPy cannot shorten, in C; where they were not built, NumPy's own code runs.

NumPy's code is the definition, and stands where it is called from. The C files are compiled when the package is
installed, never later, and need a C compiler and Python's headers; without those the installation goes on.

    loops.py    whether they are there, and their contracts
    module.c    the extension module
    novel.c     maximal marginal relevance (service/lists/diversity.py)
    best.c      the best of scores that are all there (index/best.py)
    merge.c     hits to lists (model/merging.py)
    sieve.py    items in 8 bits, by which a few queries are searched (index/exact.py), with sieve.c
    wide.inc    the inner loops, which wide_*.c compile for several widths of register
"""
