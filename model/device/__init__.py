"""Device: one CUDA graph a batch size, from histories to merged lists.

Knows networks, plans and kernels; nothing of HTTP, engines or files. In goes one small integer matrix (lengths, users,
limits, histories, excluded items), out come lists, query vectors and generated items, through pinned memory. The torch
network stays the definition: a graph is used only where it was proven, at start, to give the general path's lists, and
the same bits in every batch size (`proof`).

    layout      the integer matrix, and the answers' buffer
    generator   RecGPT on the kernels, expansion and steps included
    encoders    the encoder of a network: generator, blend of them, or the network's own operations
    chain       encode, search and merge of one batch
    lane        a chain captured at one size, with buffers and a stream of its own
    recall      lanes of all sizes: requests in, lists out
    prepare     decides at start if graphs answer
    proof       lists against the general path's, bits between sizes
"""
