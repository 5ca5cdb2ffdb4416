"""The outcomes that a list can be asked for (a long view, a like, a follow), as maps of query vectors.

In: query vectors of a trained network and the name of an outcome. Out: the vectors that rank by what ends with it.
Knows neither networks nor the service; model/training/outcomes.py trains the maps.
"""
