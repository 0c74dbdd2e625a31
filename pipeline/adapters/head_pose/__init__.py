"""Head pose by a network that can be differentiated: what attribute optimisation turns heads with."""
