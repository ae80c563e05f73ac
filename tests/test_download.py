"Downloads: faults, rates, kills, full disks. Each folder must equal one from a quiet day"
import errno,hashlib,json,os,random,signal,struct,subprocess,sys,threading,time,zlib
from dataclasses import replace
from io import BytesIO
from itertools import count
from pathlib import Path

import pytest
from PIL import Image
from manga_colorize.booru import download as module
from manga_colorize.booru.client import Booru,EmbeddedBooru,Post,download
from manga_colorize.booru.download import Manifest,check_picture,in_threads
from manga_colorize.booru.http import NotFetched
from test_embedded import tiny

@pytest.fixture
def server():
    with EmbeddedBooru(None, n=60, draw=tiny, mixed=False) as s: yield s

def booru(server, **kw): return Booru(server.url, **dict(dict(rate=None, backoff=.01, timeout=5., name='test'), **kw))
def fetch(server, dst, n=12, n_workers=4, **kw): return download(booru(server, **kw).search(n=n), dst, n_workers, progress=False)
def contents(path):
    "A digest of each file, since pytest takes minutes to tell how long bytes differ; the question without its date"
    path = Path(path); asked = json.loads((path/'query.json').read_text(encoding='utf-8')) if (path/'query.json').exists() else {}
    return {p.relative_to(path).as_posix():hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob('*') if p.is_file()} | {'query.json':{k:v for k,v in asked.items() if k!='began'}}
def lines(path): return [json.loads(l) for l in (Path(path)/'manifest.jsonl').read_text(encoding='utf-8').splitlines()]
def asked(server, since=0): return [server.stock.ids[p[6:38]] for _,p,_ in list(server.log)[since:] if p.startswith('/data/')]

def test_a_folder(server, tmp_path):
    r = fetch(server, tmp_path/'a')
    assert (r.new,r.there,r.failed)==(12,0,[])
    assert sorted(contents(tmp_path/'a'))==sorted([*(f'images/{i}.png' for i in range(49,61)),'manifest.jsonl','query.json'])
    rows = lines(tmp_path/'a'); assert [d['id'] for d in rows]==list(range(49,61))
    assert rows[0]==dict(file_name='images/49.png', id=49, md5=hashlib.md5(tiny(48)).hexdigest(),
                         tags=dict(general=['1girl','number_49'], character=[], copyright=['original'], artist=['nobody'], meta=[]),
                         artist='nobody', source='https://example.org/world/49', rating='general', license='unknown', width=9, height=8, booru='test')
    assert json.loads((tmp_path/'a'/'query.json').read_text(encoding='utf-8')).keys()=={'booru','tags','rating','began'}
    assert all((tmp_path/'a'/'images'/f'{i}.png').read_bytes()==tiny(i-1) for i in range(49,61))

def test_workers_and_order_change_nothing(server, tmp_path):
    for k in (1,4,16): fetch(server, tmp_path/str(k), 30, k)
    assert contents(tmp_path/'1')==contents(tmp_path/'4')==contents(tmp_path/'16')

def test_again_fetches_nothing(server, tmp_path):
    fetch(server, tmp_path/'a'); before,k = contents(tmp_path/'a'),len(server.log)
    r = fetch(server, tmp_path/'a')
    assert (r.new,r.there)==(0,12) and asked(server, k)==[] and contents(tmp_path/'a')==before

def test_more_can_be_asked_for(server, tmp_path):
    fetch(server, tmp_path/'a', 12); r = fetch(server, tmp_path/'a', 30); fetch(server, tmp_path/'b', 30)
    assert (r.new,r.there)==(18,12) and contents(tmp_path/'a')==contents(tmp_path/'b')

@pytest.mark.parametrize('kind,why', [('404','HTTP status 404'),('403','HTTP status 403'),('md5','md5 differs'),
        ('html','a web page in place of a picture'),('redirect','leaves the booru: example.com'),('long','larger than expected'),
        ('huge','larger than expected')])
def test_refused_counted_named_and_fetched_the_next_day(server, tmp_path, kind, why):
    "Three pictures suffer, nine arrive; a second run fetches just the three"
    fetch(server, tmp_path/'quiet'); server.misbehave(kind, times=3)
    r = fetch(server, tmp_path/'a')
    assert r.new==9 and len(r.failed)==3 and {w for _,w in r.failed}=={why}
    assert [json.loads(l) for l in (tmp_path/'a'/'failed.jsonl').read_text(encoding='utf-8').splitlines()]==[dict(id=i, why=why) for i,_ in r.failed]
    assert f'failed: {why}' in str(r) and len(lines(tmp_path/'a'))==9 and not list((tmp_path/'a').rglob('.*'))
    k = len(server.log); r2 = fetch(server, tmp_path/'a')
    assert (r2.new,r2.there,sorted(asked(server, k)))==(3,9,sorted(i for i,_ in r.failed)) and contents(tmp_path/'a')==contents(tmp_path/'quiet')

@pytest.mark.parametrize('kind', ['429','503','500','cut','slow'])
def test_passing_trouble_is_survived(server, tmp_path, kind):
    "Six bad answers, all twelve pictures"
    fetch(server, tmp_path/'quiet'); k = len(server.log); server.misbehave(kind, times=6, seconds=1. if kind=='slow' else .05)
    r = fetch(server, tmp_path/'a', timeout=.5 if kind=='slow' else 5.)
    assert (r.new,r.failed)==(12,[]) and len(asked(server, k))==18 and contents(tmp_path/'a')==contents(tmp_path/'quiet')

def test_gives_up_after_5_tries(server, tmp_path):
    server.misbehave('503', times=1000)
    r = fetch(server, tmp_path/'a', 3)
    assert {w for _,w in r.failed}=={'503 service unavailable, 5 times'} and len(asked(server))==15 and lines(tmp_path/'a')==[]

@pytest.mark.parametrize('rate', [2.5,5,12])
def test_never_more_than_the_rate_in_any_second(server, tmp_path, rate):
    "Searches and pictures together, four threads"
    fetch(server, tmp_path/'a', int(2.4*rate), rate=rate)
    times = sorted(t for t,*_ in server.log)
    most = max(sum(t<=u<t+1 for u in times) for t in times)
    print(f'{len(times)} requests, at most {most} in any second')
    assert len(times)>2*rate and most<=rate

def test_slow_starts_do_not_break_the_rate(server, tmp_path):
    "Answers that take 0.4 s, some of them: requests may bunch up, the rate may not"
    server.misbehave('slow', times=4, seconds=.4); fetch(server, tmp_path/'a', 12, rate=6)
    times = sorted(t for t,*_ in server.log)
    assert max(sum(t<=u<t+1 for u in times) for t in times)<=6

def test_all_threads_wait_when_told_to(server, tmp_path):
    server.misbehave('429', seconds=1.); fetch(server, tmp_path/'a')
    told = next(t for t,p,s in server.log if s==429)
    assert [t for t,*_ in server.log if told+.5<t<told+.98]==[] and len(lines(tmp_path/'a'))==12

def png(w, h, data=b''):
    chunk = lambda k,d: struct.pack('>I',len(d))+k+d+struct.pack('>I',zlib.crc32(k+d))
    return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', struct.pack('>IIBBBBB',w,h,8,2,0,0,0))+chunk(b'IDAT', zlib.compress(data))+chunk(b'IEND', b'')
def saved(kind, **kw): Image.new('RGB',(9,8),(200,90,10)).save(f:=BytesIO(), kind, **kw); return f.getvalue()

bad = {'bomb':(png(60000,60000),'too many pixels'), 'small bomb':(png(9500,9500),'too many pixels'),
       'gif bomb':(saved('GIF')[:6]+struct.pack('<HH',65535,65535)+saved('GIF')[10:],'too many pixels'),
       'empty':(b'','not a picture'), 'text':(b'hello','not a picture'), 'cut png':(saved('PNG')[:50],'not a picture'),
       'flipped png':(saved('PNG')[:45]+b'x'+saved('PNG')[46:],'not a picture'), 'html':(b'\n <!DOCTYPE html><p>','a web page in place of a picture'),
       'tiff':(saved('TIFF'),'not a picture'), 'pdf':(saved('PDF'),'not a picture'), 'zip':(b'PK\x03\x04'+bytes(90),'not a picture'),
               'pickle':(b'\x80\x04\x95\x00.','not a picture'), 'svg':(b'<svg xmlns="http://www.w3.org/2000/svg"/>','not a picture'),
               'eps':(saved('EPS'),'not a picture')}
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_14_kinds_of_bytes_that_are_no_picture(tmp_path):
    "The booru itself offers them, with the right md5"
    data = list(bad.values())
    with EmbeddedBooru(None, n=len(data)+2, draw=lambda i: data[i][0] if i<len(data) else tiny(i), mixed=False) as s: r = fetch(s, tmp_path/'a', None)
    assert len(bad)==14 and r.new==2 and r.failed==[(i+1,why) for i,(_,why) in enumerate(data)]

@pytest.mark.parametrize('kind,ext', dict(JPEG='jpg', PNG='png', GIF='gif', WEBP='webp', BMP='bmp').items())
def test_the_suffix_follows_the_bytes(tmp_path, kind, ext):
    with EmbeddedBooru(None, n=1, draw=lambda i: saved(kind), mixed=False) as s:
        assert s.stock.facts(1)['file_ext']=='jpg'
        fetch(s, tmp_path/'a', 1)
    assert [p.name for p in (tmp_path/'a'/'images').iterdir()]==[f'1.{ext}'] and lines(tmp_path/'a')[0]['file_name']==f'images/1.{ext}'

def test_names_and_words_from_the_web_stay_where_they_are(server, tmp_path):
    "Numbers become names; tags with slashes, quotes, surrogates and line ends become JSON"
    post = replace(next(iter(booru(server).search())), ext='../../x', source='a\nb\u2028"\ud800', tags=dict(general=['../..','CON','"','名前'], artist=['a','b']))
    odd = [replace(post, id=i) for i in (-1,True,'../../etc',1.5)]
    r = download([post,*odd], tmp_path/'a'/'b', progress=False)
    assert (r.new,len(r.failed))==(1,4) and {w for _,w in r.failed}=={'no number'}
    assert sorted(p.name for p in tmp_path.rglob('*') if p.is_file())==['60.png','failed.jsonl','manifest.jsonl','query.json']
    assert (d := lines(tmp_path/'a'/'b')[0])['tags']['general']==['../..','CON','"','名前'] and d['artist']=='a b' and d['source'].startswith('a\nb\u2028"')
    assert download([post], tmp_path/'a'/'b', progress=False).there==1

def test_limits(server, tmp_path):
    posts = list(booru(server).search(n=2))
    assert {w for _,w in download(posts, tmp_path/'a', max_bytes=20, progress=False).failed}=={'larger than 20 bytes'} and asked(server)==[]
    assert {w for _,w in download([replace(p, size=0) for p in posts], tmp_path/'a', max_bytes=20, progress=False).failed}=={'larger than expected'}
    assert download([replace(p, size=0) for p in posts], tmp_path/'a', progress=False).new==2

def test_damaged_folders_are_mended(server, tmp_path):
    "A line cut, doubled, lost or damaged; a picture cut, lost or exchanged; leftovers of a killed process"
    fetch(server, tmp_path/'quiet'); a = tmp_path/'a'; fetch(server, a); m,whole = a/'manifest.jsonl',(tmp_path/'quiet'/'manifest.jsonl').read_bytes()
    def mended(fetched=()):
        k = len(server.log); r = fetch(server, a)
        assert contents(a)==contents(tmp_path/'quiet') and sorted(asked(server, k))==sorted(fetched) and r.new==len(fetched)
    for text in (whole[:-30], whole[:-1], b'', whole*2, whole[:100]+b'\0\xff\n'+whole, b'[]\n{}\n7\n'+whole, whole.replace(b'images/50.png', b'../../50.png')): m.write_bytes(text); mended()
    m.unlink(); mended()
    (a/'images'/'50.png').write_bytes(b'cut'); mended([50])
    (a/'images'/'51.png').unlink(); mended([51])
    (a/'images'/'52.png').write_bytes(tiny(3)+b'!'); m.unlink(); mended([52])
    (a/'images'/'.53-0123abcd.png').write_bytes(b'half'); (a/'.manifest-0123abcd.jsonl').write_bytes(b'half'); mended()

def test_a_picture_that_was_exchanged_on_the_site_is_fetched_anew(server, tmp_path):
    fetch(server, tmp_path/'a'); server.stock.files[60] = (tiny(999),hashlib.md5(tiny(999)).hexdigest()); server.stock.ids[server.stock.files[60][1]] = 60
    r = fetch(server, tmp_path/'a')
    assert (r.new,r.there)==(1,11) and (tmp_path/'a'/'images'/'60.png').read_bytes()==tiny(999) and lines(tmp_path/'a')[-1]['md5']==server.stock.files[60][1]

def test_one_folder_one_question(server, tmp_path):
    fetch(server, tmp_path/'a'); before = contents(tmp_path/'a')
    for b,tags,rating in ((booru(server),'1girl','general'), (booru(server),'',None), (booru(server, name='other'),'','general')):
        with pytest.raises(ValueError, match='the same question'): download(b.search(tags, 2, rating), tmp_path/'a', progress=False)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'diary.txt').write_text('dear', encoding='utf-8')
    with pytest.raises(ValueError, match='other files in it'): fetch(server, tmp_path/'mine')
    with pytest.raises(ValueError, match='other files in it'): fetch(server, tmp_path/'mine'/'diary.txt')
    (tmp_path/'odd').mkdir(); (tmp_path/'odd'/'query.json').write_text('{', encoding='utf-8')
    with pytest.raises(ValueError, match='a damaged file'): fetch(server, tmp_path/'odd')
    with pytest.raises(ValueError, match='1 to 64'): fetch(server, tmp_path/'b', n_workers=0)
    assert contents(tmp_path/'a')==before and not (tmp_path/'b').exists()
    other = list(booru(server, name='other').search(n=1))
    assert download([*booru(server).search(n=1), *other, replace(other[0], id=7)], tmp_path/'a', progress=False).failed==[(7,'from another booru')]

def test_a_bad_question_makes_no_folder(server, tmp_path):
    server.misbehave('403', where='/posts')
    with pytest.raises(PermissionError, match='set user_agent'): fetch(server, tmp_path/'a')
    assert not (tmp_path/'a').exists()

def test_search_that_fails_in_the_middle_keeps_what_is_there(server, tmp_path):
    def posts():
        yield from booru(server).search(n=5)
        raise NotFetched('503, 5 times')
    with pytest.raises(NotFetched, match='503, 5 times'): download(posts(), tmp_path/'a', 1, progress=False)
    assert len(lines(tmp_path/'a'))==5

def test_a_booru_that_shuts_the_door_in_the_middle(tmp_path):
    "The second page is refused: the error is the booru's, not the disk's"
    with EmbeddedBooru(None, n=450, draw=tiny, mixed=False) as server:
        posts = iter(booru(server).search()); some = [next(posts) for _ in range(150)]
        server.misbehave('403', where='/posts.json')
        with pytest.raises(PermissionError, match='set user_agent'): download(posts, tmp_path/'a', progress=False)
        assert len(lines(tmp_path/'a'))>=40

def test_never_read_far_ahead(server, tmp_path):
    "An endless iterable, four threads, stopped after 20 pictures"
    post,read = next(iter(booru(server).search())),count()
    posts = (replace(post, id=i) for i in read)
    results = in_threads(lambda p: p.id, posts, 4, threading.Event())
    for _ in range(20): next(results)
    time.sleep(.1); results.close()
    assert next(read)<=20+8+4+4

def test_the_same_post_twice_is_fetched_once(server, tmp_path):
    posts = list(booru(server).search(n=3))
    assert download(posts*20, tmp_path/'a', 8, progress=False).new==3 and sorted(asked(server))==[58,59,60]

def test_report(server, tmp_path):
    server.misbehave('md5', times=5); r = fetch(server, tmp_path/'a', n_workers=1)
    assert r._repr_markdown_().splitlines()[-1]=='| failed: md5 differs | 5 | 56, 57, 58 ... |' and str(r).splitlines()[:2]==['a','new                           7'] and repr(r)==str(r)

def test_progress_bar(server, tmp_path, capsys):
    download(booru(server).search(n=3), tmp_path/'a'); assert '3/3' in capsys.readouterr().out
    download(booru(server).search(n=3), tmp_path/'a', progress=False); assert capsys.readouterr()==('','')

class Disk:
    "A disk with room for `n` writes"
    def __init__(self, n): self.n,self.lock = n,threading.Lock()
    def use(self):
        with self.lock: self.n -= 1
        return self.n>=0
    def write_bytes(self, path, data):
        if self.use(): return path.open('wb').write(data)
        path.open('wb').write(data[:len(data)//2]); raise OSError(errno.ENOSPC, 'No space left on device')
    def open(self, path, mode, **kw):
        f = open(path, mode, **kw)
        if self.use(): return f
        f.write('{"half":'); f.close(); raise OSError(errno.ENOSPC, 'No space left on device')

@pytest.mark.parametrize('where', ['picture','manifest'])
@pytest.mark.parametrize('n', [0,1,7])
def test_full_disk(server, tmp_path, monkeypatch, where, n):
    "A clear error, nothing half-written under a final name, and the same call goes on when there is room"
    fetch(server, tmp_path/'quiet'); disk = Disk(n)
    with monkeypatch.context() as m:
        if where=='picture': m.setattr(Path, 'write_bytes', lambda path, data: disk.write_bytes(path, data))
        else: m.setattr(module, 'open', disk.open, raising=False)
        with pytest.raises(OSError, match='cannot write in .*No space left.*What is finished is kept') as e: fetch(server, tmp_path/'a')
        assert e.value.errno==errno.ENOSPC
    there = {int(p.stem):p.read_bytes() for p in (tmp_path/'a'/'images').iterdir()}
    assert n<=len(there)<=n+4 and all(data==tiny(i-1) for i,data in there.items())
    k = len(server.log); r = fetch(server, tmp_path/'a')
    assert (r.new,r.there)==(12-len(there),len(there)) and not set(asked(server, k))&set(there) and contents(tmp_path/'a')==contents(tmp_path/'quiet')

@pytest.mark.skipif(not hasattr(os,'geteuid') or os.geteuid()==0, reason='needs a user whom the system refuses something')
def test_unwritable_folder(server, tmp_path):
    (tmp_path/'a').mkdir(mode=0o500)
    with pytest.raises(OSError, match='cannot write in'): fetch(server, tmp_path/'a')

def test_a_path_below_a_file(server, tmp_path):
    (tmp_path/'f').touch()
    with pytest.raises(OSError, match='cannot write in'): fetch(server, tmp_path/'f'/'a')

# One process imports everything once and then has a child for each download: twenty imports would take longer than the downloads
NURSERY = '''
import os,signal,sys
from manga_colorize.booru.client import Booru,download
for line in sys.stdin:
    url,dst,n = line.rstrip('\\n').split('\\t')
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(os.getpid(), flush=True); code = 1
        try:
            with Booru(url, rate=None, backoff=.01, name='test') as b: download(b.search(n=int(n)), dst, progress=False)
            code = 0
        except KeyboardInterrupt: code = 42
        finally: os._exit(code)
    status = os.waitpid(pid, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
'''
class Nursery:
    "Downloads in processes that can be killed"
    def __init__(self): self.p = subprocess.Popen([sys.executable,'-c',NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    def start(self, url, dst, n): self.p.stdin.write(f'{url}\t{dst}\t{n}\n'); self.p.stdin.flush(); return int(self.p.stdout.readline())
    def end(self): return int(self.p.stdout.readline())
    def close(self): self.p.stdin.close(); self.p.wait(10); self.p.stdout.close()

@pytest.fixture(scope='module')
def nursery():
    n = Nursery(); yield n; n.close()

posix = pytest.mark.skipif(not hasattr(os,'fork'), reason='needs fork')

@posix
def test_20_kills_at_random_moments(tmp_path, nursery):
    "kill -9, again and again: the folder equals an unbroken one, no finished picture is asked for twice"
    rng,kills,codes = random.Random(0),0,[]
    with EmbeddedBooru(None, n=800, draw=tiny, mixed=False) as server:
        fetch(server, tmp_path/'quiet', 800, 8)
        server.misbehave('slow', times=10**9, seconds=.04)
        task = server.url,tmp_path/'a',800
        while kills<20:
            finished,k = {int(p.stem) for p in tmp_path.glob('a/images/[0-9]*')},len(server.log)
            pid = nursery.start(*task); time.sleep(rng.uniform(.05,.4)); os.kill(pid, signal.SIGKILL); codes.append(nursery.end()); kills += codes[-1]==-9
            assert not finished & set(asked(server, k)), 'a finished picture was asked for again'
            assert all(int(p.stem)<=800 and p.read_bytes()==tiny(int(p.stem)-1) for p in tmp_path.glob('a/images/[0-9]*')), 'a half-written picture'
            assert codes[-1]==-9, 'the download was done before it could be killed 20 times'
        server.troubles.clear(); left = len(list(tmp_path.glob('a/images/[0-9]*'))); nursery.start(*task); assert nursery.end()==0
    print(f'{kills} kills, {left} of 800 pictures were there after the last')
    assert left<800 and contents(tmp_path/'a')==contents(tmp_path/'quiet')

@posix
def test_ctrl_c_stops_quickly_and_keeps_what_is_finished(tmp_path, nursery):
    with EmbeddedBooru(None, n=60, draw=tiny, mixed=False) as server:
        task = server.url,tmp_path/'a',60; fetch(server, tmp_path/'quiet', 60)
        server.misbehave('slow', times=10, seconds=.05); server.misbehave('slow', times=999, seconds=4.)
        pid = nursery.start(*task)
        until = time.monotonic()+20
        while len(list(tmp_path.glob('a/images/[0-9]*')))<10 and time.monotonic()<until: time.sleep(.02)
        time.sleep(.2); start = time.monotonic(); os.kill(pid, signal.SIGINT)
        assert nursery.end()==42 and time.monotonic()-start<3
        assert len(lines(tmp_path/'a'))>=10 and not list(tmp_path.glob('a/**/.*'))
        server.troubles.clear(); nursery.start(*task); assert nursery.end()==0
    assert contents(tmp_path/'a')==contents(tmp_path/'quiet')
