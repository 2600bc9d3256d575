"""The parts of the cache: keys, entries, the disk that holds them, files of them, and one flight for equals."""
