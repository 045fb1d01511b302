"""Downloads: `fetch` brings one file of a data set, `unpack` reads files out of an archive.

Right bytes have the official hash or, with DATA_MIRROR set, the sha256 its SHA256SUMS lists for the file, be
it already here, a mirror's or a host's. Where no official hash is known, a file already here is right, a
mirror's must be listed, and a host's may not be HTML. A wrong file is not used; it gives way to a right one.
"""
import fnmatch, gzip, os, shutil, stat, sys, tarfile, time, types, zipfile
from pathlib import Path, PureWindowsPath

import requests

from configurator import Refused
from data import digest

TIMEOUT = 30    # seconds to connect, and the longest silence after that


def fetch(dataset, file, urls, sha256=None, md5=None, folder=None):
    """The path of data/<dataset>/raw/<file>: already there, else from DATA_MIRROR, else from `urls` in order.
    Give the hash its publisher states; sha256 goes before md5. A broken connection leaves a .part, which the
    next try continues. Raises Refused, after the reason of each place, if none has the right bytes."""
    folder = Path(folder or Path(__file__).resolve().parent / dataset / 'raw')
    path, part, name = folder / file, folder / f'{file}.part', f'{dataset}/{file}'
    mirror = os.path.expanduser(os.environ.get('DATA_MIRROR', '')).rstrip('/')
    mirrored = [f'{mirror}/{name}'] if mirror else []
    kind, official = ('md5', md5) if md5 and not sha256 else ('sha256', sha256)

    def flaw(file, place):
        found = digest(file, kind)
        if found != official and (official or place in mirrored):
            if not mirror or f'{digest(file, "sha256")}  {name}' not in sums(mirror):
                return f'wrong bytes, their {kind} is {found}' + ', not in SHA256SUMS' * (place in mirrored)
            print(f'{name} is taken by the hash in {mirror}/SHA256SUMS, not by an official one')

    def attempt(place):
        print(f'{name} from {place}')
        resumed = pull(place, part, hashed=bool(official))
        if wrong := flaw(part, place):
            part.unlink()
            return attempt(place) if resumed else wrong     # it may have begun as other bytes: now from zero
        with open(part, 'rb+') as whole:
            os.fsync(whole.fileno())
        os.replace(part, path)

    tried = []
    for place in [path, *mirrored, *urls]:
        try:
            wrong = flaw(path, place) if place == path else attempt(place)
        except (OSError, ValueError) as error:      # ValueError: a host's name that can be none
            while error.__context__ and type(error).__module__.startswith(('requests', 'urllib3')):
                error = error.__context__       # they wrap what happened three deep
            wrong = getattr(error, 'strerror', None) or str(error) or type(error).__name__
        if not wrong:
            return path
        tried.append(f'  {place}: {wrong}')
    raise Refused(f'{name} could not be obtained:', *tried, 'Three ways out:',
                  f'  1. set DATA_MIRROR to a folder or URL that holds {name}',
                  f'  2. put {file} ({kind} {official or "unknown"}) into {folder} by hand',
                  '  3. python train.py    which needs no download', code=3)


def sums(mirror):
    try:
        if '://' in mirror:
            return requests.get(f'{mirror}/SHA256SUMS', timeout=TIMEOUT).text.splitlines()
        return Path(mirror, 'SHA256SUMS').read_text(encoding='utf-8', errors='replace').splitlines()
    except (OSError, ValueError):
        return []


def pull(place, part, hashed):
    """Bring a file or URL into `part`; true if that continued an old one. Raises OSError, keeping what came.
    Unless a hash will tell in the end, no part is continued (of another release?) and HTML is refused."""
    part.parent.mkdir(parents=True, exist_ok=True)
    if '://' not in place:
        shutil.copyfile(place, part)
        return False
    have = part.stat().st_size if hashed and part.exists() else 0
    headers = {'Accept-Encoding': 'identity', 'Range': f'bytes={have}-' if have else None}
    with requests.get(place, headers=headers, stream=True, timeout=TIMEOUT) as reply:
        code, span, body = reply.status_code, reply.headers.get('Content-Range', ''), reply.raw
        resumed = have and code == 206 and span.startswith(f'bytes {have}-')
        if have and code in (206, 416) and not resumed:
            return True     # nothing to continue it with: its hash says whether it is whole or worthless
        page = not hashed and 'text/html' in reply.headers.get('Content-Type', '').lower()
        if page or code != 200 and not resumed:
            raise OSError(f'HTTP {code} {reply.reason}' + ', a web page' * page)
        body.headers.pop('Content-Encoding', None)      # some hosts set it for .gz; requests would unpack it
        body.enforce_content_length = True              # urllib3 1 is silent about a body that is cut
        with open(part, 'ab' if resumed else 'wb') as file:
            begin, start = file.tell(), time.monotonic()
            for chunk in reply.iter_content(1 << 12):   # a broken connection takes so much with it
                size = file.tell() + file.write(chunk)
                if sys.stdout.isatty() and size % (1 << 18) < len(chunk):
                    rate = (size - begin) / max(time.monotonic() - start, 1e-3)     # bytes per second
                    eta = '?' if body.length_remaining is None else round(body.length_remaining / rate)
                    print(f'{size / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s, {eta} s left', end='  \r', flush=True)
    return resumed


def unpack(archive, names, max_bytes):
    """Yield (name, bytes) of the files in a .tar, .tar.gz, .tgz or .zip that `names` allows; write nothing.
    `names` are exact or patterns ('images/*.jpg'; the star crosses / too), each to be met. `max_bytes` is for
    all of a tar, as it is one stream, and for what is taken of a zip. Raises Refused, the member named,
    if one is no regular file, leads out of its folder or is too large, or if the archive is damaged."""
    archive, names, met, member, left = Path(archive), set(names), set(), 'archive', int(max_bytes)

    def read(stream, size):
        nonlocal left       # counts what really comes: a header may lie
        blob = stream.read(min(size, left + 1))
        left -= len(blob)
        if left < 0:
            raise ValueError(f'more than {max_bytes:,.0f} bytes')
        return blob

    def allowed(name, regular):
        nonlocal member
        member, path = name, PureWindowsPath(name)      # the kind that knows both separators, and drives
        wanted = {pattern for pattern in names if fnmatch.fnmatchcase(name, pattern) and name[-1:] != '/'}
        if wanted and (not regular or path.anchor or '..' in path.parts):
            raise ValueError('not a regular file inside the archive')
        met.update(wanted)
        return wanted

    try:
        if archive.suffix == '.zip':
            with zipfile.ZipFile(archive) as packed:
                for info in packed.infolist():
                    if allowed(info.filename, stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)):
                        yield info.filename, read(packed.open(info), info.file_size + 1)
        else:
            with open(archive, 'rb') if archive.suffix == '.tar' else gzip.open(archive) as stream:
                bounded = types.SimpleNamespace(read=lambda size: read(stream, size))
                for info in (tar := tarfile.open(fileobj=bounded, mode='r|')):  # sparse may claim any size
                    if allowed(info.name + '/' * info.isdir(), info.isreg() and not info.issparse()):
                        yield info.name, tar.extractfile(info).read()
                while read(stream, 1 << 16):
                    pass        # on to the end, where gzip keeps its checksum
    except MemoryError:
        raise                       # which is not the archive's fault
    except Exception as error:      # whatever a hostile archive makes the readers raise
        reason = str(error) or type(error).__name__
        raise Refused(f'{archive}: {member}: {reason}; remove it to have it fetched again', code=3)
    if names - met:
        raise Refused(f'{archive}: it has no {" and no ".join(sorted(names - met))}', code=3)
