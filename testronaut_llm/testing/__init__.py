"""Record, replay and fake answers in tests, here and in the projects that use this package.

Nothing here is imported by the rest of the package. It needs the extra `testing` (pytest and vcrpy).
"""
