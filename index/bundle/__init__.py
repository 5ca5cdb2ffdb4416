"""The bundle: weights, vectors, index and golden queries under one manifest, proven before it serves.

A checkpoint goes in, a folder comes out that opens whole or is refused; knows nothing of networks but in `build`.
"""
