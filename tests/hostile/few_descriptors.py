"""`aggregator` with 1,024 file descriptors: `python -m hostile.few_descriptors serve --config FILE`."""

import resource

from aggregator.cli import main

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    main()
