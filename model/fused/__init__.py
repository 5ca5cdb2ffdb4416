"""Fused: a decoder's whole pass as one call into compiled code, from histories to query vectors.

The network stays the definition. The compiled pass is used where it was built with the package, where the processor has
AVX-512, and where it was proven, on this network, to give its answers; everywhere else torch computes.

    decoder.h       what Python hands over
    vectors.h       sixteen numbers at a time
    layers.c        embeddings, attention, feed-forward
    decoder.c       histories, generated items, query vectors
    library         the compiled library, if there is one
    decoder         a network and a plan in the form that it reads
    blend           the same for a decoder among other systems
    proof           its answers against the network's
"""
