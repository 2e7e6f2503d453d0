"""Domain types and their rules: no `await`, clock, log, or I/O.

Everything here is a value or a decision about values. Time is an argument, and decisions are
returned as lists of actions, which other code performs.
"""
