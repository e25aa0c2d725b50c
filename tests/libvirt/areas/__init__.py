"""The areas of the smoke run, a module each."""
