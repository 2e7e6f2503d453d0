"""Domain types and their rules: no `await`, clock, log, or I/O.

Everything here is a value or a decision about values. Time comes in as an argument, and what has to
be done goes out as a list of actions that other code performs.
"""
