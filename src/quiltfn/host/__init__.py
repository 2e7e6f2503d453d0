"""Examines the machine: checks of `doctor`, programs, packages, health."""
