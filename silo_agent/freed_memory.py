"""How much freed memory a process keeps."""


def keep_freed_memory() -> None:
    """Let malloc keep up to 62 MiB that was freed, where it is glibc's; called once, when a process begins.

    By default it keeps 2 MiB. Chunks of 1 MiB pass through several buffers; each would begin on fresh pages, which cost
    more time than what is done with them. There is no call for it in Python. But glibc raises its limits to the largest
    block of its own mapping that was freed, up to 32 MiB, and twice that (mallopt(3), M_MMAP_THRESHOLD); the block is
    never touched, so it takes no memory.
    """
    bytearray(31 << 20)
