"""Where the files of a run are."""

from pathlib import Path

from tokenstorm.runs import make_private


def test_folders_of_ones_own_are_private_with_those_above_them_that_were_missing(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b")
    make_private(tmp_path / "a" / "b")
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a" / "b")] == [0o700, 0o700]
