"""Proof that the data is whole: scenarios of what goes wrong, drills that make it so, and what a run showed."""
