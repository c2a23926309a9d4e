"""Every story goes as its file in tests/scenarios/stories/ tells it."""

from inspect import cleandoc
from pathlib import Path

import pytest

from scenarios.stories import STORIES, Story

FOLDER = Path(__file__).parent / "stories"


@pytest.mark.parametrize("name", STORIES)
def test_a_story_goes_as_it_is_told(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file, story = FOLDER / f"{name}.txt", told(STORIES[name], tmp_path)
    if request.config.getoption("--rewrite-stories"):
        file.write_text(story)
    assert story == file.read_text(), "`make stories` writes them anew"


def test_every_file_is_a_story() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(STORIES)


def told(story: Story, folder: Path) -> str:
    heading = "".join(f"# {line}".rstrip() + "\n" for line in cleandoc(story.__doc__ or "").splitlines())
    return f"{heading}\n{story(folder).text}"
