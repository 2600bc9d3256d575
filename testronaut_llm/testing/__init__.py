"""Records, replays and fakes answers in tests, for users of this package.

No other module imports this package. It needs the extra `testing` (pytest and vcrpy).
"""
