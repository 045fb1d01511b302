"""Downloads: `fetch` brings one file of a data set, from a mirror or from its official hosts.

To learn deep learning you can skip this file. A file is right if it has the hash that its publisher states,
or the sha256 that SHA256SUMS in DATA_MIRROR lists for it. A wrong file is never used.
"""
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import requests

from core.errors import UserError
from data import store

TIMEOUT = 30    # seconds to connect, and the longest silence after that


def fetch(dataset, file, urls, sha256=None, md5=None):
    """Return the path of data/<dataset>/raw/<file>: already there, from DATA_MIRROR, or from one of `urls`.

    Where data/ cannot be written, a mirror that is a folder is read in place. Give the hash that the
    publisher states. Without one, a file that is already there is right, a mirror has to list it, and a host
    may not send a web page. A broken connection leaves a .part file, which the next attempt continues. Raises
    UserError, code 3, with the reason of each place.
    """
    path = store.folder(dataset) / 'raw' / file
    part = path.with_name(f'{file}.part')
    mirror = os.path.expanduser(os.environ.get('DATA_MIRROR', '')).rstrip('/')
    expected = Expected(f'{dataset}/{file}', 'md5' if md5 else 'sha256', md5 or sha256, mirror)
    in_mirror = f'{mirror}/{expected.name}'
    failures = []
    if path.exists():
        flaw = expected.flaw(path)
        if not flaw:
            return path
        failures.append(f'  {path}: {flaw}')

    places = [in_mirror, *urls] if mirror else [*urls]
    if not can_write(path.parent):
        if mirror and Path(in_mirror).is_file() and not expected.flaw(in_mirror, must_be_listed=True):
            print(f'{expected.name} is read in {mirror}')
            return Path(in_mirror)
        failures.append(f'  {path.parent}: cannot be written, so a download has no place')
        places = []
    while places:
        place = places.pop(0)
        print(f'{expected.name} from {place}')
        try:
            resumed = download(place, part, has_hash=bool(expected.hash))
            flaw = expected.flaw(part, must_be_listed=place == in_mirror)
        except (OSError, ValueError) as error:      # ValueError: the name of a host that cannot exist
            failures.append(f'  {place}: {reason(error)}')
            continue
        if not flaw:
            with open(part, 'rb+') as whole:
                os.fsync(whole.fileno())
            os.replace(part, path)
            return path
        part.unlink()
        if resumed:     # the old part may be of another file: once more, from the first byte
            places.insert(0, place)
        else:
            failures.append(f'  {place}: {flaw}')
    raise UserError(f'{expected.name} could not be obtained:', *failures, 'Three ways out:',
                    f'  1. set DATA_MIRROR to a folder or URL that holds {expected.name}',
                    f'  2. put {file} ({expected.algorithm} {expected.hash or "unknown"}) into {path.parent}',
                    '  3. python train.py    which needs no download', code=3)


@dataclass
class Expected:
    """What is known of the right bytes of a file."""
    name: str           # data set/file
    algorithm: str      # of the hash: sha256 or md5
    hash: str           # as its publisher states it, or None
    mirror: str         # DATA_MIRROR: a folder, a URL or ''

    def flaw(self, file, must_be_listed=False):
        """Return '' if a file is right, else what is wrong; `must_be_listed`: where no hash is stated."""
        if not self.hash and not must_be_listed:
            return ''
        found = store.file_hash(file, self.algorithm)
        if found == self.hash:
            return ''
        if self.mirror and f'{store.file_hash(file)}  {self.name}' in mirror_sums(self.mirror):
            print(f'{self.name} is accepted by the hash in {self.mirror}/SHA256SUMS, not by an official one')
            return ''
        return f'wrong bytes, their {self.algorithm} is {found}'


def can_write(folder):
    """Return whether files can be written to a folder, which need not be there yet."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return os.access(existing, os.W_OK)


def mirror_sums(mirror):
    """Return the lines of a mirror's SHA256SUMS, 'hash  data set/file'."""
    try:
        if '://' in mirror:
            with requests.get(f'{mirror}/SHA256SUMS', stream=True, timeout=TIMEOUT) as reply:
                reply.raise_for_status()
                text = b''
                for chunk in reply.iter_content(2**16):
                    text += chunk
                    if len(text) > 2**24:
                        raise ValueError('more than 16 MB')
                return text.decode('utf-8', 'replace').splitlines()
        return Path(mirror, 'SHA256SUMS').read_text(encoding='utf-8', errors='replace').splitlines()
    except (OSError, ValueError):
        return []


def reason(error):
    """Return why a download failed: requests and urllib3 wrap the cause several times."""
    while error.__context__ and type(error).__module__.startswith(('requests', 'urllib3')):
        error = error.__context__
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


def download(place, part, has_hash):
    """Bring a file or URL to `part`; return whether an old part was continued.

    Without a hash to tell in the end, no part is continued and a web page is an error. Raises OSError, and
    keeps what has arrived.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.is_symlink():               # it would be written through
        part.unlink()
    if '://' not in place:
        shutil.copyfile(place, part)
        return False
    begin = part.stat().st_size if has_hash and part.exists() else 0
    headers = {'Accept-Encoding': 'identity'}
    if begin:
        headers['Range'] = f'bytes={begin}-'
    with requests.get(place, headers=headers, stream=True, timeout=TIMEOUT) as reply:
        if begin and reply.status_code == 416:      # nothing is beyond the part: its hash will tell
            return True
        if reply.status_code not in (200, 206):
            raise OSError(f'HTTP {reply.status_code} {reply.reason}')
        if not has_hash and 'text/html' in reply.headers.get('Content-Type', '').lower():
            raise OSError('a web page')
        resumed = begin > 0 and reply.status_code == 206
        with part.open('ab' if resumed else 'wb') as file:
            write_body(reply, file)
    return resumed


def write_body(reply, file):
    """Append the body of a reply to a file, with a live line on a terminal."""
    reply.raw.headers.pop('Content-Encoding', None)     # some hosts set it for a .gz, which shall stay packed
    reply.raw.enforce_content_length = True             # urllib3 1 accepts a body that is cut
    begin = file.tell()
    start = shown = time.monotonic()
    for chunk in reply.iter_content(2**14):             # as much may be lost with a connection
        file.write(chunk)
        now = time.monotonic()
        if sys.stdout.isatty() and now > shown + 0.2:
            shown = now
            size = file.tell()
            rate = (size - begin) / (now - start)       # bytes per second
            left = reply.raw.length_remaining
            eta = '?' if left is None else round(left / rate)
            print(f'{size / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s, {eta} s left', end='  \r', flush=True)
