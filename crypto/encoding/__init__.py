"""Numbers to lanes, lanes to words, words to chunks."""
