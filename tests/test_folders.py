"""data/folders.py: what is below a folder, also behind links, and names that are written alike."""
import os

import pytest

from core.errors import UserError
from data import folders


@pytest.fixture
def touch(tmp_path):
    """touch('a/1.png', ...): make empty files below tmp_path."""
    def touch(*names):
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b'')
    return touch


def names(files, folder):
    return [str(file.relative_to(folder)) for file in files]


def test_files_are_sorted_and_hidden_ones_left_out(touch, tmp_path):
    touch('b/2', 'b/1', 'a.png', 'a/x', '.git/config', 'b/._1', 'b/.thumbs/1')
    assert names(folders.files_below(tmp_path), tmp_path) == ['a/x', 'a.png', 'b/1', 'b/2']


def test_links_are_followed_to_files_and_folders(touch, tmp_path):
    touch('here/a/1', 'there/deep/2', 'there/3')
    (tmp_path / 'here/b').symlink_to(tmp_path / 'there')
    (tmp_path / 'here/c').symlink_to(tmp_path / 'there')        # twice is no circle
    (tmp_path / 'here/4').symlink_to(tmp_path / 'there/3')
    found = names(folders.files_below(tmp_path / 'here'), tmp_path / 'here')
    assert found == ['4', 'a/1', 'b/3', 'b/deep/2', 'c/3', 'c/deep/2']


def test_a_link_that_leads_nowhere_counts_as_a_file(touch, tmp_path):
    touch('1')
    (tmp_path / '2').symlink_to(tmp_path / 'unplugged')
    os.mkfifo(tmp_path / '3')                                   # to read it would wait for ever
    assert names(folders.files_below(tmp_path), tmp_path) == ['1', '2']


@pytest.mark.parametrize('link, target', [('a/up', ''), ('a/self', 'a'), ('a/b', 'c')])
def test_links_in_a_circle_are_an_error(touch, tmp_path, link, target):
    touch('a/1', 'c/2')
    (tmp_path / 'c/back').symlink_to(tmp_path / 'a')
    (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.raises(UserError, match='a link to a folder that it is in') as error:
        folders.files_below(tmp_path)
    assert error.value.code == 3


@pytest.mark.parametrize('name, reason', [
    ('none', 'No such file or directory'), ('1.zip', 'Not a directory')])
def test_what_is_no_folder_is_an_error_with_the_reason(touch, tmp_path, name, reason):
    touch('1.zip')
    with pytest.raises(UserError, match=f'{tmp_path}/{name}: {reason}: expected a folder'):
        folders.entries(tmp_path / name)


def test_a_folder_is_found_by_one_of_its_names(touch, tmp_path):
    touch('Valid/1', 'other/2', 'val')                          # val is a file
    assert folders.find_named(tmp_path, ('val', 'valid')) == tmp_path / 'Valid'
    assert folders.find_named(tmp_path, ('test',)) is None
    touch('validation/1')
    with pytest.raises(UserError, match='expected one of Valid, validation'):
        folders.find_named(tmp_path, ('valid', 'validation'))


def test_names_that_look_the_same_are_the_same():
    assert folders.composed('cafe\u0301') == folders.composed('caf\u00e9') == 'caf\u00e9'
