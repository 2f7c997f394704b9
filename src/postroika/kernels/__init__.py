"""Compiled modules of cext/ land here, with their .pyi stubs."""
