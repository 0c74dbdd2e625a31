"""Identity samplers: where candidate vectors come from.

The means of a recogniser's identities fill a small part of their sphere; vectors drawn evenly on the sphere lie off it
and come out as nobody. A Gaussian fitted to the means, per cell where a cell is asked for, stays on it.
"""
