"""The tests. A package, so that they import `tests.wire` and may share file names between rooms."""
