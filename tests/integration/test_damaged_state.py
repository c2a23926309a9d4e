"""SQLite files that a disk has damaged: whoever opens them says which file it is, on one line, and changes nothing."""

from collections.abc import Callable

import pytest

from support.deployment import PATIENCE, Deployment, Program

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "another file": lambda content: b"no database at all " * 200,
    "zeros": lambda content: bytes(len(content)),
    "cut": lambda content: content[: len(content) // 2],
    "all but its first page zeros": lambda content: content[:4096].ljust(len(content), b"\0"),
    "its first page flipped": lambda content: bytes(byte ^ 0xFF for byte in content[:4096]) + content[4096:],
}


@pytest.mark.slow
def test_the_file_is_named_and_kept_and_all_goes_on_once_it_is_restored(deployment: Deployment) -> None:
    aggregator = deployment.serve()
    for silo in deployment.silos:
        deployment.enroll(silo)
    deployment.pin()
    name = deployment.submit()
    aggregator.end()
    state, of_a = deployment.folder / "state", deployment.folder / "a" / "state"
    deployment.silo("a", "pending")  # which makes its store
    commands = {
        state / "runs.sqlite": lambda: deployment.aggregator("rounds", "show", name),
        state / "enrolments.sqlite": lambda: deployment.aggregator("silos", "list"),
        of_a / "agent.sqlite": lambda: deployment.silo("a", "pending"),
    }
    programs = {
        state / "runs.sqlite": ("aggregator.cli", "serve", "--config", deployment.config),
        state / "enrolments.sqlite": ("aggregator.cli", "serve", "--config", deployment.config),
        of_a / "agent.sqlite": ("silo_agent.cli", "run", "--config", deployment.agent_config("a")),
    }
    for file, command in commands.items():
        content = file.read_bytes()
        for damage, damaged in DAMAGES.items():
            file.write_bytes(damaged(content))
            ran = command()
            assert (ran.code, ran.err.count("\n")) == (4, 1), (file, damage, ran)
            assert ran.err.startswith(f"error: {file}: "), damage
            assert file.read_bytes() == damaged(content), damage
        program = Program(deployment.folder / "refuses.log", *programs[file])
        assert program.process.wait(PATIENCE) == 4, program.said
        assert f"error: {file}: " in program.said
        assert "Traceback" not in program.said
        file.write_bytes(content)
        assert command().code == 0
