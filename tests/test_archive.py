"""data/archive.py: what is allowed comes out of an archive, and nothing else; damage is an error."""
import gzip
import io
import random
import stat
import tarfile
import zipfile

import pytest

from core.errors import UserError
from data.archive import unpack

NOISE = random.Random(0).randbytes(300_000)
FILES = {'images/a.jpg': b'A' * 5000, 'images/b.jpg': b'', 'images/deep/c.jpg': NOISE,
         'images/._a.jpg': b'left by a mac', 'list.txt': b'a b c'}
TYPES = {'symlink': (tarfile.SYMTYPE, stat.S_IFLNK), 'hardlink': (tarfile.LNKTYPE, None),
         'device': (tarfile.CHRTYPE, stat.S_IFCHR), 'fifo': (tarfile.FIFOTYPE, stat.S_IFIFO)}


def build(path, files=FILES, kind=None):
    """Write an archive of a folder, `files` and images/evil.jpg, which is of one of the TYPES."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo('images/'), b'')
            for name, body in files.items():
                archive.writestr(name, body)
            if kind:
                info = zipfile.ZipInfo('images/evil.jpg')
                info.external_attr = TYPES[kind][1] << 16
                archive.writestr(info, b'list.txt')
    else:
        with tarfile.open(path, 'w' if path.suffix == '.tar' else 'w:gz') as archive:
            folder = tarfile.TarInfo('images')
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for name, body in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
            if kind:
                info = tarfile.TarInfo('images/evil.jpg')
                info.type, info.linkname = TYPES[kind][0], 'list.txt'
                archive.addfile(info)
    return path


def unpacked(path, *names, limit=1e6):
    return dict(unpack(path, names, limit))


def error_of(path, *names):
    """Return the message, one line, of the UserError, code 3, that unpacking raises."""
    with pytest.raises(UserError) as error:
        unpacked(path, *names)
    assert error.value.code == 3 and '\n' not in str(error.value)
    return str(error.value)


@pytest.fixture(params=['toy.tar', 'toy.tar.gz', 'toy.tgz', 'toy.zip'])
def archive(request, tmp_path):
    """Return the path of an archive to be built; afterwards it still is the only file near and far."""
    folder = tmp_path / 'here' / 'below'
    folder.mkdir(parents=True)
    yield folder / request.param
    assert {path for path in tmp_path.rglob('*') if path.is_file()} == {folder / request.param}


def test_what_is_allowed_is_read(archive):
    build(archive)
    assert unpacked(archive, 'list.txt') == {'list.txt': FILES['list.txt']}
    assert unpacked(archive, 'images/*.jpg', 'list.txt') == FILES
    assert set(unpacked(archive, 'images/[!.]*')) == {'images/a.jpg', 'images/b.jpg', 'images/deep/c.jpg'}
    assert unpacked(archive, '*') == FILES          # folders are passed over


def test_what_is_missing_is_named(archive):
    error = error_of(build(archive), 'list.txt', 'gone.txt', '*.png')
    assert 'gone.txt' in error and '*.png' in error and 'list.txt' not in error


@pytest.mark.parametrize('name', ['../x', '/x', 'images/../../x', 'images/..'])
def test_a_path_that_leads_out_of_the_folder_is_an_error(archive, name):
    build(archive, {**FILES, name: b'evil'})
    assert name in error_of(archive, '*') and name in error_of(archive, name)
    assert unpacked(archive, 'list.txt')            # members that are not asked for are not examined


@pytest.mark.parametrize('kind', TYPES)
def test_what_is_not_a_regular_file_is_an_error(archive, kind):
    if archive.suffix == '.zip' and kind == 'hardlink':
        kind = 'symlink'                            # a zip has no hard links
    build(archive, kind=kind)
    assert 'images/evil.jpg: not a regular file' in error_of(archive, 'images/*')
    assert unpacked(archive, 'list.txt')


def test_a_member_that_is_too_large_is_an_error(archive):
    build(archive, {'bomb': bytes(20_000_000), 'after.txt': b'x'})
    for name in 'bomb', '*':
        assert 'bomb: more than 1,000,000 bytes' in error_of(archive, name)


def test_the_limit_is_for_all_members_together(archive):
    build(archive, {f'{i}.txt': bytes(100_000) for i in range(20)})
    assert 'more than 1,000,000 bytes' in error_of(archive, '*.txt')
    assert len(unpacked(archive, '*.txt', limit=2_000_000)) == 20


def test_every_cut_of_an_archive_is_an_error(archive):
    whole = build(archive, {'a.txt': random.Random(1).randbytes(3000), 'b.txt': b'b'}).read_bytes()
    end = 4 * 512 + 3072 if archive.suffix == '.tar' else len(whole)    # b.txt begins there; zeros end a tar
    for size in [*range(0, end, 97), end - 1]:
        archive.write_bytes(whole[:size])
        assert str(archive) in error_of(archive, 'a.txt', 'b.txt')


def test_a_changed_byte_in_a_packed_archive_is_an_error(archive):
    whole = build(archive, {'a.txt': random.Random(1).randbytes(3000)}).read_bytes()
    if archive.suffix != '.tar':                    # which has no checksum of the content
        archive.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
        assert str(archive) in error_of(archive, 'a.txt')


def test_what_is_not_an_archive_is_an_error(archive):
    for body in b'', b'<html>', NOISE, gzip.compress(NOISE):
        archive.write_bytes(body)
        assert error_of(archive, '*').startswith(f'{archive}: ')
    assert 'No such file' in error_of(archive.with_name('none' + archive.suffix), '*')
