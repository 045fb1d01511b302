"""data/download.py: against a server on this machine that fails in every way a host can."""
import gzip
import hashlib
import http.server
import os
import random
import socket
import sys
import threading

import pytest

from core.errors import UserError
from data import download, store

BODY = random.Random(0).randbytes(300_000)
SHA256, MD5 = hashlib.sha256(BODY).hexdigest(), hashlib.md5(BODY).hexdigest()
OTHER = bytes(300_000)      # as long, and wrong
NAME = 'toy/file.bin'


# --- what a host may answer: each makes a function that is called with the handler of a request

def serve(body=BODY, code=200, length=None, **headers):
    def answer(handler):
        handler.send_response(code)
        handler.send_header('Content-Length', str(len(body) if length is None else length))
        for key, value in headers.items():
            handler.send_header(key.replace('_', '-'), value)
        handler.end_headers()
        handler.wfile.write(body)
    return answer


def ranged(body=BODY, shift=0):
    """Honours Range; with `shift` it sends other bytes than it was asked for, and says so."""
    def answer(handler):
        start = int(handler.headers.get('Range', 'bytes=0-')[len('bytes='):-1])
        if not start:
            serve(body)(handler)
        elif start >= len(body):
            serve(b'', 416, Content_Range=f'bytes */{len(body)}')(handler)
        else:
            start += shift
            serve(body[start:], 206, Content_Range=f'bytes {start}-{len(body) - 1}/{len(body)}')(handler)
    return answer


def hang(count):
    """Sends `count` bytes of the body (None: not even headers), then nothing as long as the test lasts."""
    def answer(handler):
        if count is not None:
            serve(BODY[:count], length=len(BODY))(handler)
        handler.server.over.wait(600)
    return answer


@pytest.fixture
def web():
    """A server: `routes` maps a path to an answer (else 404), `seen` lists (path, Range) of the requests."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.seen.append((self.path, self.headers.get('Range')))
            self.server.routes.get(self.path, serve(b'sorry', 404))(self)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.routes, server.seen, server.over = {}, [], threading.Event()
    server.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Return the data set's folder of downloads, not there yet; no mirror, no proxy."""
    monkeypatch.delenv('DATA_MIRROR', raising=False)
    monkeypatch.setenv('NO_PROXY', '*')
    monkeypatch.setattr(store, 'ROOT', tmp_path)
    return tmp_path / 'data/toy/raw'


def fetch(*urls, sha256=SHA256, **more):
    return download.fetch('toy', 'file.bin', urls, sha256=sha256, **more)


def error_of(*urls, **more):
    """Return the message of the UserError, code 3, that fetch raises."""
    with pytest.raises(UserError) as error:
        fetch(*urls, **more)
    assert error.value.code == 3
    return f'{error.value}\n'           # as it is printed


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """mirror(body, sums): make a folder the mirror that has these bytes and this SHA256SUMS."""
    def mirror(body, sums=None):
        folder = tmp_path / 'a mirror'
        (folder / 'toy').mkdir(parents=True, exist_ok=True)
        (folder / NAME).write_bytes(body)
        if sums is not None:
            (folder / 'SHA256SUMS').write_text(sums, encoding='utf-8')
        monkeypatch.setenv('DATA_MIRROR', f'{folder}/')
        return folder
    return mirror


def listing(body, name=NAME):
    return f'{hashlib.sha256(b"else").hexdigest()}  toy/else\n{hashlib.sha256(body).hexdigest()}  {name}\n'


# --- hosts

def test_a_file_is_downloaded_once(raw, web, capsys):
    web.routes['/a'] = serve()
    for _ in range(2):
        assert fetch(f'{web.url}/a') == raw / 'file.bin'
    assert (raw / 'file.bin').read_bytes() == BODY
    assert os.listdir(raw) == ['file.bin']
    assert len(web.seen) == 1
    assert capsys.readouterr().out == f'{NAME} from {web.url}/a\n'      # no live line without a terminal


def test_the_hash_may_be_md5(raw, web):
    web.routes |= {'/a': serve(), '/b': serve(OTHER)}
    error = error_of(f'{web.url}/b', sha256=None, md5=MD5)
    assert f'file.bin (md5 {MD5}) into {raw}' in error
    assert fetch(f'{web.url}/b', f'{web.url}/a', sha256=None, md5=MD5).read_bytes() == BODY


@pytest.mark.parametrize('answer, reason, kept', [
    pytest.param(serve(b'', 404), 'HTTP 404', None, id='404'),
    pytest.param(serve(b'', 503), 'HTTP 503', None, id='503'),
    pytest.param(serve(b'', 204), 'HTTP 204', None, id='empty'),
    pytest.param(serve(b'<html>', Content_Type='text/html'), 'wrong bytes', None, id='html'),
    pytest.param(serve(OTHER), 'wrong bytes', None, id='wrong'),
    pytest.param(serve(BODY[:196_608], length=300_000), 'IncompleteRead', 196_608, id='cut'),
    pytest.param(hang(None), 'timed out', None, id='hang'),
    pytest.param(hang(0), 'timed out', 0, id='hang-after-headers'),
    pytest.param(hang(2 << 16), 'timed out', 2 << 16, id='hang-in-body')])
def test_a_host_that_fails_gives_way_to_the_next(raw, web, monkeypatch, answer, reason, kept):
    if reason == 'timed out':
        monkeypatch.setattr(download, 'TIMEOUT', 1.0)
    web.routes |= {'/bad': answer, '/good': ranged()}
    error = error_of(f'{web.url}/bad')
    assert f'{web.url}/bad: {reason}' in error
    assert {file: os.path.getsize(raw / file) for file in os.listdir(raw)} == (
        {} if kept is None else {'file.bin.part': kept})
    assert fetch(f'{web.url}/bad', f'{web.url}/good').read_bytes() == BODY
    assert os.listdir(raw) == ['file.bin']


def test_an_address_where_nobody_answers_is_reported(raw):
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    error = error_of(f'http://127.0.0.1:{port}/a', 'no://scheme')
    assert f'http://127.0.0.1:{port}/a: Connection refused\n' in error
    assert 'no://scheme: No connection adapters' in error


def test_a_mirror_whose_name_cannot_exist_is_reported(raw, web, monkeypatch):
    monkeypatch.setenv('DATA_MIRROR', 'http://a..b')
    web.routes |= {'/wrong': serve(OTHER), '/a': serve()}
    error = error_of(f'{web.url}/wrong')
    assert f'http://a..b/{NAME}: ' in error and f'{web.url}/wrong: wrong bytes' in error
    assert fetch(f'{web.url}/a').read_bytes() == BODY


def test_the_error_has_the_reason_of_each_place_and_three_ways_out(raw, web, tmp_path, monkeypatch):
    monkeypatch.setenv('DATA_MIRROR', str(tmp_path / 'none'))
    error = error_of(f'{web.url}/gone')
    for fact in (f'  {tmp_path}/none/{NAME}: No such file', f'  {web.url}/gone: HTTP 404',
                 '1. set DATA_MIRROR', f'2. put file.bin (sha256 {SHA256}) into {raw}', '3. python train.py'):
        assert fact in error


def test_without_a_known_hash_a_web_page_or_a_cut_file_is_an_error(raw, web):
    web.routes |= {'/page': serve(b'<html>', Content_Type='text/html; charset=utf-8'),
                   '/cut': serve(BODY[:9000], length=300_000), '/good': ranged()}
    error = error_of(f'{web.url}/page', f'{web.url}/cut', sha256=None)
    assert 'a web page' in error and 'IncompleteRead' in error
    assert fetch(f'{web.url}/good', sha256=None).read_bytes() == BODY
    assert web.seen[-1] == ('/good', None)      # nothing shows whether the part is of the same release
    assert fetch(sha256=None) == raw / 'file.bin'


def test_a_gz_file_stays_packed_whatever_the_host_calls_it(raw, web):
    packed = gzip.compress(BODY)                # Apache calls a .gz so, whatever was asked for
    web.routes['/a'] = serve(packed, Content_Encoding='x-gzip')
    assert fetch(f'{web.url}/a', sha256=hashlib.sha256(packed).hexdigest()).read_bytes() == packed


def test_no_host_is_allowed_to_compress(raw, web):
    def answer(handler):
        allowed = 'gzip' in handler.headers.get('Accept-Encoding', '*')
        serve(gzip.compress(BODY) if allowed else BODY)(handler)
    web.routes['/a'] = answer
    assert fetch(f'{web.url}/a').read_bytes() == BODY


def test_a_file_is_on_the_disk_before_it_gets_its_name(raw, web, monkeypatch):
    calls = []
    for name in 'fsync', 'replace':
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: calls.append(name) or real(*args))
    web.routes['/a'] = serve()
    fetch(f'{web.url}/a')
    assert calls == ['fsync', 'replace']


def test_a_live_line_is_shown_on_a_terminal(raw, web, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    seconds = iter(range(10**6))
    monkeypatch.setattr(download.time, 'monotonic', lambda: next(seconds))      # a second per chunk
    web.routes['/a'] = serve()
    fetch(f'{web.url}/a')
    out = capsys.readouterr().out
    assert out.count('\r') == len(BODY) // 2**14 + 1
    assert '0.0 MB, 0.0 MB/s, 17 s left' in out and '0.3 MB, 0.0 MB/s, 0 s left' in out


# --- resume

def partly(raw, body):
    raw.mkdir(parents=True)
    (raw / 'file.bin.part').write_bytes(body)


@pytest.mark.parametrize('answer, requests', [
    pytest.param(ranged(), 1, id='honoured'), pytest.param(serve(), 1, id='ignored'),
    pytest.param(ranged(shift=7), 2, id='other-range')])
def test_a_part_is_continued(raw, web, answer, requests):
    partly(raw, BODY[:196_608])
    web.routes['/a'] = answer
    assert fetch(f'{web.url}/a').read_bytes() == BODY
    assert web.seen == [('/a', 'bytes=196608-'), ('/a', None)][:requests]
    assert os.listdir(raw) == ['file.bin']


@pytest.mark.parametrize('part, requests', [
    pytest.param(OTHER[:196_608], 2, id='of-other-bytes'), pytest.param(BODY + b'more', 2, id='too-long'),
    pytest.param(BODY, 1, id='complete')])
def test_a_part_that_does_not_fit_is_fetched_again_from_the_first_byte(raw, web, part, requests):
    partly(raw, part)
    web.routes['/a'] = ranged()
    assert fetch(f'{web.url}/a').read_bytes() == BODY
    assert web.seen == [('/a', f'bytes={len(part)}-'), ('/a', None)][:requests]


def test_the_next_host_continues_the_part(raw, web):
    web.routes |= {'/cut': serve(BODY[:196_608], length=300_000), '/good': ranged()}
    assert fetch(f'{web.url}/cut', f'{web.url}/gone', f'{web.url}/good').read_bytes() == BODY
    assert web.seen == [('/cut', None), ('/gone', 'bytes=196608-'), ('/good', 'bytes=196608-')]


# --- mirrors, and what is there already

def test_the_mirror_comes_before_the_hosts(raw, web, mirror):
    mirror(BODY)
    assert fetch(f'{web.url}/a').read_bytes() == BODY
    assert not web.seen


def test_the_mirror_may_be_a_url(raw, web, monkeypatch):
    monkeypatch.setenv('DATA_MIRROR', f'{web.url}/mirror/')
    web.routes[f'/mirror/{NAME}'] = ranged()
    assert fetch(f'{web.url}/a').read_bytes() == BODY
    assert web.seen == [(f'/mirror/{NAME}', None)]


@pytest.mark.parametrize('official', [{'sha256': SHA256}, {'sha256': None, 'md5': MD5}, {'sha256': None}],
                         ids=['sha256', 'md5', 'none'])
@pytest.mark.parametrize('by_url', [False, True], ids=['folder', 'url'])
def test_other_bytes_of_a_mirror_are_right_if_it_lists_them(raw, web, mirror, monkeypatch, capsys, official,
                                                            by_url):
    folder = mirror(OTHER)
    if by_url:
        monkeypatch.setenv('DATA_MIRROR', web.url)
        web.routes[f'/{NAME}'] = serve(OTHER)
    for sums in '', listing(BODY), listing(OTHER, 'toy/file.bin2'), listing(OTHER, 'file.bin'):
        web.routes['/SHA256SUMS'] = serve(sums.encode())
        (folder / 'SHA256SUMS').write_text(sums, encoding='utf-8')
        assert f'{NAME}: wrong bytes' in error_of(**official)
        assert os.listdir(raw) == []
    web.routes['/SHA256SUMS'] = serve(listing(OTHER).encode())
    (folder / 'SHA256SUMS').write_text(listing(OTHER), encoding='utf-8')
    capsys.readouterr()
    for again in False, True:
        assert fetch(**official).read_bytes() == OTHER
        if not again or official != {'sha256': None}:     # else what is here is not even asked about
            assert capsys.readouterr().out.count('not by an official one') == 1
        web.routes.pop(f'/{NAME}', None)        # and is not fetched again
        (folder / NAME).unlink(missing_ok=True)


def test_a_wrong_file_stays_until_a_right_one_replaces_it(raw, web, mirror, monkeypatch):
    mirror(OTHER, listing(OTHER))
    fetch()
    monkeypatch.delenv('DATA_MIRROR')
    error = error_of(f'{web.url}/a')
    assert f'{raw}/file.bin: wrong bytes' in error
    assert (raw / 'file.bin').read_bytes() == OTHER
    web.routes['/a'] = serve()
    assert fetch(f'{web.url}/a').read_bytes() == BODY


def test_no_mirror_is_not_the_working_directory(raw, web, mirror, monkeypatch):
    monkeypatch.chdir(mirror(OTHER, listing(OTHER)))
    monkeypatch.delenv('DATA_MIRROR')
    web.routes['/a'] = serve(OTHER)
    assert 'wrong bytes' in error_of(f'{web.url}/a')


def test_what_a_mirror_of_other_bytes_began_the_official_host_does_not_complete(raw, web, monkeypatch):
    monkeypatch.setenv('DATA_MIRROR', f'{web.url}/mirror')
    web.routes |= {f'/mirror/{NAME}': serve(OTHER[:196_608], length=300_000), '/a': ranged()}
    assert fetch(f'{web.url}/a').read_bytes() == BODY


def test_a_folder_that_cannot_be_made_is_reported(raw, web):
    raw.parent.parent.mkdir()
    raw.parent.write_bytes(b'a file')
    web.routes['/a'] = serve()
    assert f'{web.url}/a: ' in error_of(f'{web.url}/a')


def read_only(monkeypatch, raw):
    """Let no file be written below the folder of a data set, not even by root."""
    access = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: not str(path).startswith(str(raw.parents[1])) and
                        access(path, mode))
    raw.parent.mkdir(parents=True)


def test_where_nothing_can_be_written_a_mirror_is_read_in_place(raw, web, mirror, monkeypatch):
    read_only(monkeypatch, raw)
    folder = mirror(BODY)
    assert fetch(f'{web.url}/a') == folder / NAME
    assert not raw.exists() and not web.seen
    mirror(OTHER, listing(OTHER))                   # other bytes, but listed
    assert fetch(f'{web.url}/a') == folder / NAME
    mirror(OTHER, '')
    assert f'{raw}: cannot be written' in error_of(f'{web.url}/a')


def test_where_nothing_can_be_written_a_file_that_is_there_will_do_and_a_host_will_not(raw, web, monkeypatch):
    read_only(monkeypatch, raw)
    web.routes['/a'] = serve()
    assert f'{raw}: cannot be written' in error_of(f'{web.url}/a') and not web.seen
    raw.mkdir()
    (raw / 'file.bin').write_bytes(BODY)
    assert fetch() == raw / 'file.bin'
