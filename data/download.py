"""Downloads: `fetch` brings one file of a data set, `unpack` reads members out of an archive.

Nothing from outside is believed. Right bytes have the official hash or, where DATA_MIRROR is set, the sha256 that its
SHA256SUMS lists for <dataset>/<file>; so it is for a file already there, for the mirror's and for every host's. Where no
official hash is known, the mirror's file must be listed, a file already there is taken, and a host may not send HTML.
"""
import gzip, hashlib, os, shutil, stat, sys, tarfile, time, zipfile
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import requests

TIMEOUT = 30        # seconds to connect, and the longest silence after that
CHUNK = 1 << 16     # bytes per read: the most that a broken connection takes with it


def fail(*lines):
    print(*lines, sep='\n', file=sys.stderr)
    raise SystemExit(3)     # data or network


def fetch(dataset, file, urls, sha256=None, md5=None, folder=None):
    """The path of a file in data/<dataset>/raw: already there, else from DATA_MIRROR, else from `urls` in their order.

    Give the hash that its publisher states; sha256 goes before md5. What a broken connection brought stays as .part and
    the next try goes on from there. Raises SystemExit(3), each place and its failure named, if no right bytes are found.
    """
    folder = Path(folder or Path(__file__).resolve().parent / dataset / 'raw')
    path, part, name = folder / file, folder / f'{file}.part', f'{dataset}/{file}'
    mirror = os.path.expanduser(os.environ.get('DATA_MIRROR', '')).rstrip('/')
    mirrored = [f'{mirror}/{name}'] if mirror else []
    kind, official = ('md5', md5) if md5 and not sha256 else ('sha256', sha256)

    def flaw(file, place):
        found = digest(file, kind)
        if found == official or not official and place not in mirrored:
            return None
        if mirror and f'{digest(file, "sha256")}  {name}' in sums(mirror):
            return print(f'{name} is not the official file but one that {mirror}/SHA256SUMS lists')
        return f'wrong bytes, their {kind} is {found}'

    def attempt(place):
        if place == path:
            return flaw(path, place)
        print(f'{name} from {place}')
        resumed = pull(place, part, hashed=bool(official))
        wrong = flaw(part, place)
        if wrong:
            part.unlink()
            return attempt(place) if resumed else wrong     # the part may have begun as other bytes: now from zero
        with open(part, 'rb+') as whole:
            os.fsync(whole.fileno())
        os.replace(part, path)

    tried = []
    for place in [path, *mirrored, *urls]:
        try:
            wrong = attempt(place)
        except OSError as error:
            while error.__context__:    # requests wraps what happened three deep, in OSErrors of its own
                error = error.__context__
            wrong = getattr(error, 'strerror', None) or str(error) or type(error).__name__
        if not wrong:
            return path
        tried.append(f'  {place}: {wrong}')
    fail(f'{name} is not to be had:', *tried, 'Three ways out:',
         f'  1. set DATA_MIRROR to a folder or URL that holds {name}',
         f'  2. put {file} ({kind} {official or "unknown"}) into {folder} by hand',
         '  3. python train.py    which needs no download')


def digest(path, kind):
    with open(path, 'rb') as file:      # without the last word, machines under FIPS refuse md5
        return hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()


def sums(mirror):
    try:
        return (requests.get(f'{mirror}/SHA256SUMS', timeout=TIMEOUT).text if '://' in mirror else
                Path(mirror, 'SHA256SUMS').read_text(encoding='utf-8', errors='replace')).splitlines()
    except OSError:
        return []


def pull(place, part, hashed):
    """Bring a file or a URL into `part`; True if an older part was continued. Raises OSError; `part` keeps what came.

    Without a hash to tell in the end, a part is not continued (it may be of another release) and HTML is refused.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    if '://' not in place:
        shutil.copyfile(place, part)
        return False
    have = part.stat().st_size if hashed and part.exists() else 0
    headers = {'Accept-Encoding': 'identity', **({'Range': f'bytes={have}-'} if have else {})}
    with requests.get(place, headers=headers, stream=True, timeout=TIMEOUT) as reply:
        code, body = reply.status_code, reply.raw
        resumed = have > 0 and code == 206 and reply.headers.get('Content-Range', '').startswith(f'bytes {have}-')
        if have and not resumed and code in (206, 416):
            return True         # nothing here continues this part: its hash says whether it is whole or worthless
        if not resumed and code != 200:
            raise OSError(f'HTTP {code} {reply.reason}')
        if not hashed and 'text/html' in reply.headers.get('Content-Type', '').lower():
            raise OSError('a web page instead of the file')
        body.headers.pop('Content-Encoding', None)      # some hosts set it for .gz, and requests would unpack it
        with open(part, 'ab' if resumed else 'wb') as file:
            first, start = file.tell(), time.monotonic()
            for chunk in reply.iter_content(CHUNK):
                file.write(chunk)
                if sys.stdout.isatty():
                    rate = (file.tell() - first) / max(time.monotonic() - start, 1e-3)      # bytes per second
                    eta = '?' if body.length_remaining is None else round(body.length_remaining / rate)
                    print(f'{file.tell() / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s, {eta} s left \033[K', end='\r', flush=True)
        if body.length_remaining:       # older urllib3 says nothing of a body that was cut
            raise OSError(f'cut, {body.length_remaining:,} bytes are missing')
    return resumed


def unpack(archive, names, max_bytes):
    """Yield (name, bytes) of the files in a .tar, .tar.gz, .tgz or .zip that `names` allows; nothing is written.

    `names` are exact or patterns ('images/*.jpg'; the star crosses / too), and each must be found. `max_bytes` bounds all
    that is unpacked: of a zip what is taken, of a tar, which is one stream, what is passed over too. Raises SystemExit(3),
    naming the member, for one that is no regular file, leads out of its folder or is too large, and for a damaged archive.
    """
    archive, names, member, left = Path(archive), list(names), '', max_bytes
    missing = set(names)

    def read(stream, size):
        nonlocal left           # counts what really comes: a header may lie
        blob = stream.read(min(size, left + 1))
        left -= len(blob)
        if left < 0:
            raise ValueError(f'more than {max_bytes:,} bytes')
        return blob

    def allowed(name, regular):
        nonlocal member
        member, path = name, PureWindowsPath(name)      # the kind of path that knows both separators, and drives
        found = [pattern for pattern in names if fnmatchcase(name, pattern)]
        if found and (not regular or path.anchor or '..' in path.parts):
            raise ValueError('not a regular file inside the archive')
        missing.difference_update(found)
        return found

    try:
        if archive.suffix == '.zip':
            with zipfile.ZipFile(archive) as packed:
                for info in packed.infolist():
                    regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                    if not info.is_dir() and allowed(info.filename, regular):
                        yield info.filename, read(packed.open(info), info.file_size + 1)
        else:
            with (open if archive.suffix == '.tar' else gzip.open)(archive, 'rb') as stream:
                tar = tarfile.open(fileobj=SimpleNamespace(read=partial(read, stream)), mode='r|')
                for info in tar:
                    regular = info.isreg() and not info.issparse()      # a hole of a terabyte is but a header
                    if not info.isdir() and allowed(info.name, regular):
                        yield info.name, tar.extractfile(info).read()
                while read(stream, CHUNK):      # to the end, where gzip keeps its checksum
                    pass
    except Exception as error:      # whatever a hostile archive makes the readers raise
        fail(f'{archive}: {member or "archive"}: {error or type(error).__name__}')
    if missing:
        fail(f'{archive}: lacks {", ".join(sorted(missing))}')
