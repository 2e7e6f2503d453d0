"""The HTTP contract: parse, call a verb, render. No decision about functions is made here."""
