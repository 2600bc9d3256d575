"""Records, replays and fakes answers in tests; needs the extra `testing` (pytest and vcrpy)."""
