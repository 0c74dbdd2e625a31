"""How well a recogniser that was trained on a dataset tells strangers apart, and whom training may not have seen."""
