"""Archives: `unpack` reads chosen files out of a .tar, .tar.gz, .tgz or .zip that a stranger has made.

To learn deep learning you can skip this file.
"""
import fnmatch
import gzip
import stat
import tarfile
import zipfile
import zlib
from pathlib import PurePosixPath

from core.errors import UserError

DAMAGE = OSError, EOFError, ValueError, RuntimeError, zlib.error, tarfile.TarError, zipfile.BadZipFile


def unpack(archive, names, max_bytes):
    """Yield (name, content) of the files in an archive that match one of `names`; write nothing.

    `names` are exact or patterns ('images/*.jpg'; the star crosses / too), and each has to match. Raises
    UserError for a damaged archive, for a matching member that is not a regular file or leads out of the
    folder, and for more than `max_bytes` in all.
    """
    members = zip_members if archive.suffix == '.zip' else tar_members
    missing = set(names)
    total = 0
    try:
        for name, size, is_regular, read in members(archive):
            matched = {pattern for pattern in names if fnmatch.fnmatchcase(name, pattern)}
            if not matched:
                continue
            path = PurePosixPath(name)
            if not is_regular or path.is_absolute() or '..' in path.parts:
                raise ValueError(f'{name}: not a regular file inside the archive')
            total += size
            if total > max_bytes:
                raise ValueError(f'{name}: more than {max_bytes:,.0f} bytes')
            missing -= matched
            yield name, read()
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise UserError(f'{archive}: {reason}; remove the file to have it fetched again', code=3)
    if missing:
        raise UserError(f'{archive}: it has no {" and no ".join(sorted(missing))}', code=3)


def tar_members(archive):
    """Yield (name, size, whether it is a regular file, a function that reads it) of all but folders."""
    with open(archive, 'rb') if archive.suffix == '.tar' else gzip.open(archive) as stream:
        with tarfile.open(fileobj=stream, mode='r|') as tar:
            for member in tar:
                if not member.isdir():
                    yield member.name, member.size, member.isreg(), lambda: tar.extractfile(member).read()
        while stream.read(2**20):
            pass        # on to the end, where gzip has its checksum


def zip_members(archive):
    """Yield the same of a zip."""
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if not member.is_dir():
                kind = stat.S_IFMT(member.external_attr >> 16)      # 0: not packed on Unix
                is_regular = kind in (0, stat.S_IFREG)
                yield member.filename, member.file_size, is_regular, lambda: packed.read(member)
