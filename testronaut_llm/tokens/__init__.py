"""The parts of a token estimate: encodings, families of tokenizers, calibration, memory of counts."""
