"""data/download.py against a server on this machine that fails in every way a host can, and bad archives."""
import gzip, hashlib, http.server, io, os, random, socket, stat, struct, sys, tarfile, threading
import tracemalloc, zipfile

import pytest

from configurator import Refused
from data import download

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
    """The data set's folder, not there yet; no mirror, no proxy, little patience."""
    monkeypatch.delenv('DATA_MIRROR', raising=False)
    monkeypatch.setenv('NO_PROXY', '*')
    monkeypatch.setattr(download, 'TIMEOUT', 1.0)
    return tmp_path / 'raw'


def fetch(raw, *urls, sha256=SHA256, **more):
    return download.fetch('toy', 'file.bin', urls, sha256=sha256, folder=raw, **more)


def refused(capsys, function, *args, **more):
    """What `function` says when it refuses, with exit code 3."""
    with pytest.raises(Refused) as error:
        function(*args, **more)
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

def test_downloaded_once(raw, web, capsys):
    web.routes['/a'] = serve()
    for _ in range(2):
        assert fetch(raw, f'{web.url}/a') == raw / 'file.bin'
    assert (raw / 'file.bin').read_bytes() == BODY
    assert os.listdir(raw) == ['file.bin']
    assert len(web.seen) == 1
    assert capsys.readouterr().out == f'{NAME} from {web.url}/a\n'      # no live line where nobody looks


def test_default_folder_is_beside_the_module(raw, web, monkeypatch, tmp_path):
    monkeypatch.setattr(download, '__file__', str(tmp_path / 'data' / 'download.py'))
    web.routes['/a'] = serve()
    assert fetch(None, f'{web.url}/a') == tmp_path / 'data' / 'toy' / 'raw' / 'file.bin'


def test_md5(raw, web, capsys):
    web.routes |= {'/a': serve(), '/b': serve(OTHER)}
    error = refused(capsys, fetch, raw, f'{web.url}/b', sha256=None, md5=MD5)
    assert f'file.bin (md5 {MD5}) into {raw}' in error
    assert fetch(raw, f'{web.url}/b', f'{web.url}/a', sha256=None, md5=MD5).read_bytes() == BODY


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
def test_bad_host(raw, web, capsys, answer, reason, kept):
    web.routes |= {'/bad': answer, '/good': ranged()}
    error = refused(capsys, fetch, raw, f'{web.url}/bad')
    assert f'{web.url}/bad: {reason}' in error
    assert {file: os.path.getsize(raw / file) for file in os.listdir(raw)} == (
        {} if kept is None else {'file.bin.part': kept})
    assert fetch(raw, f'{web.url}/bad', f'{web.url}/good').read_bytes() == BODY
    assert os.listdir(raw) == ['file.bin']


def test_nobody_there(raw, capsys):
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    error = refused(capsys, fetch, raw, f'http://127.0.0.1:{port}/a', 'no://scheme')
    assert f'http://127.0.0.1:{port}/a: Connection refused\n' in error
    assert 'no://scheme: No connection adapters' in error


def test_a_mirror_whose_name_can_be_none(raw, web, capsys, monkeypatch):
    monkeypatch.setenv('DATA_MIRROR', 'http://a..b')
    web.routes |= {'/wrong': serve(OTHER), '/a': serve()}
    error = refused(capsys, fetch, raw, f'{web.url}/wrong')
    assert f'http://a..b/{NAME}: ' in error and f'{web.url}/wrong: wrong bytes' in error
    assert fetch(raw, f'{web.url}/a').read_bytes() == BODY


def test_three_ways_out(raw, web, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv('DATA_MIRROR', str(tmp_path / 'none'))
    error = refused(capsys, fetch, raw, f'{web.url}/gone')
    for words in (f'  {raw}/file.bin: No such file', f'  {tmp_path}/none/{NAME}: No such file',
                  f'  {web.url}/gone: HTTP 404', '1. set DATA_MIRROR',
                  f'2. put file.bin (sha256 {SHA256}) into {raw}', '3. python train.py'):
        assert words in error
    assert 'Traceback' not in error


def test_no_hash_known(raw, web, capsys):
    web.routes |= {'/page': serve(b'<html>', Content_Type='text/html; charset=utf-8'),
                   '/cut': serve(BODY[:9000], length=300_000), '/good': ranged()}
    error = refused(capsys, fetch, raw, f'{web.url}/page', f'{web.url}/cut', sha256=None)
    assert 'a web page' in error and 'IncompleteRead' in error
    assert fetch(raw, f'{web.url}/good', sha256=None).read_bytes() == BODY
    assert web.seen[-1] == ('/good', None)      # nothing would tell whether the part was of the same release
    assert fetch(raw, sha256=None) == raw / 'file.bin'


def test_content_encoding_is_not_undone(raw, web):
    packed = gzip.compress(BODY)                # Apache calls a .gz so, whatever was asked for
    web.routes['/a'] = serve(packed, Content_Encoding='x-gzip')
    assert fetch(raw, f'{web.url}/a', sha256=hashlib.sha256(packed).hexdigest()).read_bytes() == packed


def test_host_that_compresses_when_allowed(raw, web):
    def answer(handler):
        allowed = 'gzip' in handler.headers.get('Accept-Encoding', '*')
        serve(gzip.compress(BODY) if allowed else BODY)(handler)
    web.routes['/a'] = answer
    assert fetch(raw, f'{web.url}/a').read_bytes() == BODY


def test_on_disk_before_it_gets_its_name(raw, web, monkeypatch):
    calls = []
    for name in 'fsync', 'replace':
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: calls.append(name) or real(*args))
    web.routes['/a'] = serve()
    fetch(raw, f'{web.url}/a')
    assert calls == ['fsync', 'replace']


def test_live_line_on_a_terminal(raw, web, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    monkeypatch.setattr(time, 'monotonic', lambda: 5.0)         # a clock that stands still
    web.routes['/a'] = serve()
    fetch(raw, f'{web.url}/a')
    out = capsys.readouterr().out
    assert '\r' in out and 'MB/s' in out and '0 s left' in out and '-' not in out.split('MB', 1)[1]


# --- resume

def partly(raw, body):
    raw.mkdir()
    (raw / 'file.bin.part').write_bytes(body)


@pytest.mark.parametrize('answer, requests', [
    pytest.param(ranged(), 1, id='honoured'), pytest.param(serve(), 1, id='ignored'),
    pytest.param(ranged(shift=7), 2, id='other-range')])
def test_resume(raw, web, answer, requests):
    partly(raw, BODY[:196_608])
    web.routes['/a'] = answer
    assert fetch(raw, f'{web.url}/a').read_bytes() == BODY
    assert web.seen == [('/a', 'bytes=196608-'), ('/a', None)][:requests]
    assert os.listdir(raw) == ['file.bin']


@pytest.mark.parametrize('part, requests', [
    pytest.param(OTHER[:196_608], 2, id='of-other-bytes'), pytest.param(BODY + b'more', 2, id='too-long'),
    pytest.param(BODY, 1, id='complete')])
def test_resume_of_a_strange_part(raw, web, part, requests):
    partly(raw, part)
    web.routes['/a'] = ranged()
    assert fetch(raw, f'{web.url}/a').read_bytes() == BODY
    assert web.seen == [('/a', f'bytes={len(part)}-'), ('/a', None)][:requests]


def test_another_range_is_not_appended(raw, web):
    partly(raw, BODY[:196_608])
    web.routes['/a'] = ranged(shift=7)
    assert download.pull(f'{web.url}/a', raw / 'file.bin.part', hashed=True)
    assert (raw / 'file.bin.part').read_bytes() == BODY[:196_608]


def test_next_host_continues_the_part(raw, web):
    web.routes |= {'/cut': serve(BODY[:196_608], length=300_000), '/good': ranged()}
    assert fetch(raw, f'{web.url}/cut', f'{web.url}/gone', f'{web.url}/good').read_bytes() == BODY
    assert web.seen == [('/cut', None), ('/gone', 'bytes=196608-'), ('/good', 'bytes=196608-')]


# --- mirrors, and what is there already

def test_mirror_before_hosts(raw, web, mirror):
    mirror(BODY)
    assert fetch(raw, f'{web.url}/a').read_bytes() == BODY
    assert not web.seen


def test_mirror_by_url(raw, web, monkeypatch):
    monkeypatch.setenv('DATA_MIRROR', f'{web.url}/mirror/')
    web.routes[f'/mirror/{NAME}'] = ranged()
    assert fetch(raw, f'{web.url}/a').read_bytes() == BODY
    assert web.seen == [(f'/mirror/{NAME}', None)]


@pytest.mark.parametrize('official', [{'sha256': SHA256}, {'sha256': None, 'md5': MD5}, {'sha256': None}],
                         ids=['sha256', 'md5', 'none'])
@pytest.mark.parametrize('by_url', [False, True], ids=['folder', 'url'])
def test_mirror_of_other_bytes(raw, web, mirror, monkeypatch, capsys, official, by_url):
    folder = mirror(OTHER)
    if by_url:
        monkeypatch.setenv('DATA_MIRROR', web.url)
        web.routes[f'/{NAME}'] = serve(OTHER)
    for sums in '', listing(BODY), listing(OTHER, 'toy/file.bin2'), listing(OTHER, 'file.bin'):
        web.routes['/SHA256SUMS'] = serve(sums.encode())
        (folder / 'SHA256SUMS').write_text(sums, encoding='utf-8')
        assert f'{NAME}: wrong bytes' in refused(capsys, fetch, raw, **official)
        assert os.listdir(raw) == []
    web.routes['/SHA256SUMS'] = serve(listing(OTHER).encode())
    (folder / 'SHA256SUMS').write_text(listing(OTHER), encoding='utf-8')
    capsys.readouterr()
    for again in False, True:
        assert fetch(raw, **official).read_bytes() == OTHER
        if not again or official != {'sha256': None}:     # else what is here is not even asked about
            assert capsys.readouterr().out.count('not by an official one') == 1
        web.routes.pop(f'/{NAME}', None)        # and is not fetched again
        (folder / NAME).unlink(missing_ok=True)


def test_file_already_there(raw, web, mirror, capsys, monkeypatch):
    """It is right by the same rule; a wrong one is not touched until a right one replaces it."""
    mirror(OTHER, listing(OTHER))
    fetch(raw)
    monkeypatch.delenv('DATA_MIRROR')
    error = refused(capsys, fetch, raw, f'{web.url}/a')
    assert f'{raw}/file.bin: wrong bytes' in error
    assert (raw / 'file.bin').read_bytes() == OTHER
    web.routes['/a'] = serve()
    assert fetch(raw, f'{web.url}/a').read_bytes() == BODY


def test_no_mirror_is_not_the_working_directory(raw, web, mirror, monkeypatch, capsys):
    monkeypatch.chdir(mirror(OTHER, listing(OTHER)))
    monkeypatch.delenv('DATA_MIRROR')
    web.routes['/a'] = serve(OTHER)
    assert 'wrong bytes' in refused(capsys, fetch, raw, f'{web.url}/a')


def test_mirror_cut_then_host(raw, web, monkeypatch):
    """What a mirror of other bytes began, the official host does not complete."""
    monkeypatch.setenv('DATA_MIRROR', f'{web.url}/mirror')
    web.routes |= {f'/mirror/{NAME}': serve(OTHER[:196_608], length=300_000), '/a': ranged()}
    assert fetch(raw, f'{web.url}/a').read_bytes() == BODY


def test_folder_that_cannot_be(tmp_path, raw, web, capsys):
    raw.write_bytes(b'a file')
    web.routes['/a'] = serve()
    assert f'{web.url}/a: ' in refused(capsys, fetch, raw / 'below', f'{web.url}/a')


# --- archives

FILES = {'images/a.jpg': b'A' * 5000, 'images/b.jpg': b'', 'images/deep/c.jpg': BODY,
         'images/._a.jpg': b'left by a mac', 'list.txt': b'a b c'}
TYPES = {'symlink': (tarfile.SYMTYPE, stat.S_IFLNK), 'hardlink': (tarfile.LNKTYPE, None),
         'device': (tarfile.CHRTYPE, stat.S_IFCHR), 'fifo': (tarfile.FIFOTYPE, stat.S_IFIFO)}


def build(path, files=FILES, kind=None):
    """An archive of a folder, `files`, and images/evil.jpg, which is of one of the TYPES."""
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
    return dict(download.unpack(path, names, limit))


@pytest.fixture(params=['toy.tar', 'toy.tar.gz', 'toy.tgz', 'toy.zip'])
def archive(request, tmp_path):
    """The path of an archive to be built; whatever happens, it remains the only file far and wide."""
    folder = tmp_path / 'here' / 'below'
    folder.mkdir(parents=True)
    yield folder / request.param
    assert {path for path in tmp_path.rglob('*') if path.is_file()} == {folder / request.param}


def test_unpack_takes_what_is_allowed(archive):
    build(archive)
    assert unpacked(archive, 'list.txt') == {'list.txt': FILES['list.txt']}
    assert unpacked(archive, 'images/*.jpg', 'list.txt') == FILES
    assert set(unpacked(archive, 'images/[!.]*')) == {'images/a.jpg', 'images/b.jpg', 'images/deep/c.jpg'}
    assert unpacked(archive, '*') == FILES          # folders are passed over
    assert unpacked(str(archive), 'images/b.jpg') == {'images/b.jpg': b''}


def test_unpack_names_what_is_missing(archive, capsys):
    error = refused(capsys, unpacked, build(archive), 'list.txt', 'gone.txt', '*.png')
    assert 'gone.txt' in error and '*.png' in error and 'or list.txt' not in error
    assert error.count('\n') == 1


@pytest.mark.parametrize('name', ['../x', '/x', 'images/../../x', '..\\x', 'C:\\x', 'C:x', 'images/..'])
def test_unpack_refuses_paths_that_lead_out(archive, capsys, name):
    build(archive, {**FILES, name: b'evil'})
    error = refused(capsys, unpacked, archive, '*')
    assert name in error and error.count('\n') == 1
    assert name in refused(capsys, unpacked, archive, name)
    assert unpacked(archive, 'list.txt')            # what nobody wants is not looked at


def test_unpack_refuses_what_is_no_file(archive, capsys):
    for kind in TYPES:
        if archive.suffix != '.zip' or kind != 'hardlink':      # which a zip has not
            build(archive, kind=kind)
            assert 'images/evil.jpg: not a regular file' in refused(capsys, unpacked, archive, 'images/*')
            assert unpacked(archive, 'list.txt')


def test_unpack_stops_a_bomb(archive, capsys):
    build(archive, {'bomb': bytes(20_000_000), 'after.txt': b'x'})
    tracemalloc.start()
    for name in ['bomb', '*'] + ['after.txt'] * (archive.suffix != '.zip'):    # of a zip, no more is read
        assert 'bomb: more than 1,000,000 bytes' in refused(capsys, unpacked, archive, name)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_unpack_counts_all_members(archive, capsys):
    build(archive, {f'{i}.txt': bytes(100_000) for i in range(20)})
    assert 'more than 1,000,000 bytes' in refused(capsys, unpacked, archive, '*.txt')
    assert len(unpacked(archive, '*.txt', limit=2_100_000)) == 20


def test_unpack_does_not_believe_headers(tmp_path, capsys):
    path = build(tmp_path / 'toy.zip', {'bomb': bytes(10_000_000)})
    path.write_bytes(path.read_bytes().replace(struct.pack('<I', 10_000_000), struct.pack('<I', 10)))
    assert 'bomb: ' in refused(capsys, unpacked, path, 'bomb')
    for name, headers, reason in [
            ('bomb', {'comment': '0' * 20_000_000}, 'more than 1,000,000 bytes'),
            ('hole', {'GNU.sparse.size': str(1 << 40), 'GNU.sparse.map': '0,0'}, 'hole: not a regular file')]:
        with tarfile.open(tmp_path / 'toy.tgz', 'w:gz', format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo(name)
            info.pax_headers = headers
            archive.addfile(info)
        assert reason in refused(capsys, unpacked, tmp_path / 'toy.tgz', name)


def test_unpack_refuses_every_cut(archive, capsys):
    whole = build(archive, {'a.txt': random.Random(1).randbytes(3000), 'b.txt': b'b'}).read_bytes()
    end = 4 * 512 + 3072 if archive.suffix == '.tar' else len(whole)    # b.txt begins there; zeros end a tar
    for size in [*range(0, end, 97), end - 1]:
        archive.write_bytes(whole[:size])
        assert str(archive) in refused(capsys, unpacked, archive, 'a.txt', 'b.txt')


def test_out_of_memory_blames_no_archive(archive, monkeypatch):
    def full(*args, **more):
        raise MemoryError

    build(archive)
    monkeypatch.setattr(zipfile, 'ZipFile', full)
    monkeypatch.setattr(tarfile, 'open', full)
    with pytest.raises(MemoryError):
        unpacked(archive, 'list.txt')


def test_unpack_refuses_what_is_no_archive(archive, capsys):
    for body in b'', b'<html>', BODY, gzip.compress(BODY):
        archive.write_bytes(body)
        error = refused(capsys, unpacked, archive, '*')
        assert error.startswith(f'{archive}: ') and error.count('\n') == 1
    assert 'No such file' in refused(capsys, unpacked, archive.with_name('none' + archive.suffix), '*')
