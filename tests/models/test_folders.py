"""Listing of users' folders: numbers in order, any case, without hidden files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tocsin.models.folders import listed, named


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("frame10.JPG", "frame2.jpg", "Frame1.jpg", "._frame2.jpg", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub.jpg").mkdir()
    return tmp_path


def test_numbers_count_hidden_files_do_not_and_case_is_no_matter(folder: Path) -> None:
    assert [path.name for path in listed(folder, ".jpg")] == ["Frame1.jpg", "frame2.jpg", "frame10.JPG", "sub.jpg"]
    assert [path.name for path in listed(folder, ".txt", ".md")] == ["notes.txt"]
    assert len(listed(folder)) == 5


def test_leading_zeros_and_long_numbers_are_put_in_order(tmp_path: Path) -> None:
    names = ["a1b2", "a1b10", "a01b11", "a2", "a20260131120000000000000000", "b"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in listed(tmp_path)] == names


def test_a_file_stands_for_itself_and_nothing_for_nothing(folder: Path) -> None:
    assert listed(folder / "notes.txt", ".txt") == [folder / "notes.txt"]
    assert listed(folder / "notes.txt", ".csv") == listed(folder / "nowhere") == []


def test_a_file_is_found_by_its_name_in_any_case(folder: Path) -> None:
    assert named(folder, "NOTES.txt") == folder / "notes.txt"
    (folder / "Notes.txt").touch()
    assert named(folder, "Notes.txt") == folder / "Notes.txt"
    assert named(folder, "sub.jpg") is named(folder, "other") is None


def test_a_link_to_a_folder_above_is_not_followed_and_another_one_is(tmp_path: Path) -> None:
    (below := tmp_path / "above" / "below").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name, target in (("back", tmp_path / "above"), ("self", below), ("out", tmp_path / "elsewhere")):
        (below / name).symlink_to(target)
    assert [path.name for path in listed(below)] == ["out"]
