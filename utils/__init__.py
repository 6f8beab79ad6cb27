"""Training criteria (``crit.py``, which imports only torch) and small helpers; imports no other package of ours."""
