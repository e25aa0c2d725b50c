"""The parts of the strict VHDX reader; vhdx_strict.py puts them together."""
