"Builds that are killed, starved, fed rubbish, or done on a cluster: nothing lost, nothing doubled, nothing half-written"
import errno,os,random,signal,subprocess,sys,time,tracemalloc,zlib
from pathlib import Path

import numpy as np,pytest
from manga_colorize.dataset.build import build_dataset,read_metadata
from manga_colorize.dataset.reading import Refused
from manga_colorize.dataset.workers import in_order
from children import Child,context,posix
from fixtures import contents,digest,picture,refusals
from test_dataset import save

@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "Forty pictures, among them copies and rubbish"
    path = tmp_path_factory.mktemp('scans')
    for i in range(30): save(picture(i), path/f'{i%4}'/f'{i}.png')
    for i in range(6): save(picture(i), path/f'copy {i}.png')
    for i in range(4): (path/f'bad {i}.png').write_bytes(bytes(range(i)))
    return path

@pytest.fixture(scope='module')
def whole(scans, tmp_path_factory):
    path = tmp_path_factory.mktemp('whole')/'pages'
    build_dataset(scans, path, size=48)
    return path

def test_an_exception_anywhere_is_survived(scans, whole, tmp_path):
    "Broken off after each of the first ten pictures, and gone on with"
    class Stop(KeyboardInterrupt): pass
    count = iter(range(1,11)); last = 0
    def stop(k):
        if k>last: raise Stop
    for last in count:
        with pytest.raises(Stop): build_dataset(scans, tmp_path/'out', size=48, each=stop)
        with pytest.raises(ValueError, match='finished data set'): read_metadata(tmp_path/'out')
    build_dataset(scans, tmp_path/'out', size=48)
    assert contents(tmp_path/'out')==contents(whole)

def be_killed(src, dst, seed):
    "Build in a child that is killed 20 times; says how often"
    luck,kills = random.Random(seed),0
    while True:
        child = os.fork()
        if not child:
            build_dataset(src, dst, size=48, each=lambda k: time.sleep(.004))
            os._exit(0)
        if kills<20:
            time.sleep(luck.random()*.02*(kills+1)**.4)
            os.kill(child, signal.SIGKILL)
        _,status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status): kills += 1
        elif status: sys.exit('the build failed')
        else: break
    print(kills)

@pytest.mark.skipif(not hasattr(os,'fork'), reason='needs fork to kill fast')
@pytest.mark.parametrize('seed', range(3))
def test_kills_at_random_moments(scans, whole, tmp_path, seed):
    "SIGKILL again and again, through listing, work and delivery, up to 20 times: the result is an unbroken run's"
    code,out,err = Child(tmp_path, be_killed, scans, tmp_path/'out', seed).end(120)
    assert code==0, err
    print('kills survived:', out.strip())
    assert int(out)==20 and contents(tmp_path/'out')==contents(whole)

class Cut(BaseException): "What a kill is to a test in one process"

@pytest.mark.parametrize('verb', ['write','move_in'])
def test_cut_off_at_every_step_of_the_delivery(scans, whole, tmp_path, monkeypatch, verb):
    "Stopped before and after each file that is written or moved in, leaving temporary files: the next run ends as if nothing had been"
    from manga_colorize.dataset.storage import LocalPlace
    real,count,k = getattr(LocalPlace, verb),[0],0
    def cut(self, *args):
        count[0] += 1
        if count[0]==k//2+1:
            name = args[-1] if verb=='move_in' else args[0]
            if k%2: real(self, *args)
            elif '/' not in name or name.startswith('card/'):
                f = self.path/name; f.parent.mkdir(exist_ok=True); (f.parent/f'.{f.stem}-0123abcd{f.suffix}').write_bytes(b'half')
            raise Cut
        return real(self, *args)
    while True:
        monkeypatch.setattr(LocalPlace, verb, cut); count[0] = 0
        try: build_dataset(scans, tmp_path/str(k), size=48)
        except Cut: pass
        else: break
        finally: monkeypatch.undo()
        build_dataset(scans, tmp_path/str(k), size=48)
        assert contents(tmp_path/str(k))==contents(whole), k
        k += 1 if verb=='write' or k<8 else 9
    assert k>=(8 if verb=='write' else 20)

def test_a_folder_for_work_is_the_users(scans, whole, tmp_path):
    "Nothing of the user's in it is touched, two data sets do not mix there, and an abandoned one is not continued by another"
    (tmp_path/'desk').mkdir(); (tmp_path/'desk'/'thesis.txt').write_text('mine')
    def stop(k):
        if k==5: raise Cut
    with pytest.raises(Cut): build_dataset(scans, 'memory://desk/pages', size=32, each=stop, work=tmp_path/'desk')
    from fsspec import filesystem
    filesystem('memory').rm('/desk', recursive=True)
    build_dataset(scans, 'memory://desk/pages', size=48, work=tmp_path/'desk')
    build_dataset(scans, tmp_path/'out', size=48, work=tmp_path/'desk')
    fs = filesystem('memory')
    assert contents(tmp_path/'out')==contents(whole)=={p[len('/desk/pages/'):]:digest(fs.cat_file(p)) for p in fs.find('/desk/pages')}
    assert (tmp_path/'desk'/'thesis.txt').read_text()=='mine' and len(list((tmp_path/'desk').iterdir()))==2   # the abandoned one stays

def test_the_same_name_elsewhere_is_another_source(scans, tmp_path):
    for k in 'ab': [save(picture(i+(k=='b')*100), tmp_path/k/'in'/f'{i}.png') for i in range(3)]
    build_dataset(tmp_path/'a'/'in', tmp_path/'out', size=48)
    with pytest.raises(ValueError, match='or the same data set'): build_dataset(tmp_path/'b'/'in', tmp_path/'out', size=48)

def build_with_two(src, dst):
    print('start')
    try: build_dataset(src, dst, size=48, n_workers=2, each=print)
    except KeyboardInterrupt: sys.exit(130)

def alive(session):
    "Processes of a session that are not zombies"
    out = subprocess.run(['ps','-o','pid=,stat=','-s',str(session)], capture_output=True, text=True).stdout
    return [l for l in out.splitlines() if 'Z' not in l.split()[1]]

signals = pytest.mark.skipif(not posix, reason='signals of POSIX')

@signals
@pytest.mark.parametrize('word', ['start','1'], ids=['while workers start','at work'])
def test_ctrl_c_with_workers_is_quiet(scans, whole, tmp_path, word):
    p = Child(tmp_path, build_with_two, scans, tmp_path/'out').until(word)
    if word=='start': time.sleep(.5)
    code,_,err = p.interrupt().end()
    assert code==130 and err=='', err
    build_dataset(scans, tmp_path/'out', size=48)
    assert contents(tmp_path/'out')==contents(whole)

@signals
def test_workers_end_with_a_killed_parent(scans, whole, tmp_path):
    p = Child(tmp_path, build_with_two, scans, tmp_path/'out').until('1').kill(); p.end()
    for _ in range(100):
        if not alive(p.pid): break
        time.sleep(.1)
    assert not alive(p.pid), 'orphans'
    build_dataset(scans, tmp_path/'out', size=48)
    assert contents(tmp_path/'out')==contents(whole)

@pytest.fixture
def quick(monkeypatch): "Workers that start at once"; monkeypatch.setattr('manga_colorize.dataset.workers.get_context', lambda way: context)

def die_once(arg):
    "Kills its process the first time"
    flag,x = arg
    if x==5 and not Path(flag).exists(): Path(flag).touch(); os._exit(1)
    return x
def die(x): os._exit(1)

@pytest.mark.parametrize('pause', [0,.3])
def test_a_lost_worker_is_replaced(tmp_path, pause, quick):
    keys,out = [(str(tmp_path/'flag'),i) for i in range(12)],[]
    for x in in_order(die_once, keys, n_workers=1): out.append(x); time.sleep(pause*(x<3))
    assert out==list(range(12)) and (tmp_path/'flag').exists()

def test_a_deadly_picture_is_named(quick):
    with pytest.raises(RuntimeError, match="three dead at 'a.png'"): list(in_order(die, ['a.png'], n_workers=1))

def test_an_endless_source_stays_bounded(quick):
    seen = []
    def keys():
        for i in range(10**9): seen.append(i); yield i
    results = in_order(abs, keys(), n_workers=1)
    assert [next(results) for _ in range(3)]==[0,1,2] and len(seen)<12
    results.close()

def test_a_cluster_that_loses_a_worker(scans, whole, tmp_path):
    "Two Dask workers on this machine; one is killed in the middle"
    distributed = pytest.importorskip('dask.distributed')
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster, distributed.Client(cluster) as client:
        pids = list(client.run(os.getpid).values()); assert len(pids)==2
        kill = lambda k: k==5 and os.kill(pids[0], signal.SIGTERM if os.name=='nt' else signal.SIGKILL)
        build_dataset(scans, tmp_path/'out', size=48, client=cluster.scheduler_address, each=kill)
        build_dataset(scans, tmp_path/'given', size=48, client=client)
    assert contents(tmp_path/'out')==contents(tmp_path/'given')==contents(whole)

def bomb(png):
    "A PNG whose header promises 60,000 x 60,000 pixels"
    head = b'IHDR'+(60000).to_bytes(4,'big')*2+b'\x08\x02\0\0\0'
    return png[:8]+b'\0\0\0\r'+head+zlib.crc32(head).to_bytes(4,'big')+png[33:]

def damaged(path, n=2000):
    "Two thousand files that are no good, or only look bad: each with the reason expected, None for one that is fine"
    rng,good = np.random.default_rng(0),{}
    for i in range(8): save(picture(100+i), path/f'whole{i}.png'); save(picture(200+i), path/f'whole{i}.jpg', quality=90)
    whole = {p.name:p.read_bytes() for p in path.iterdir()}
    odd = ['a b','😀 smile','line\nbreak','tab\there','"quoted"','percent %41','dots..','漫画'] if os.name=='posix' else ['a b','😀 smile','percent %41','漫画']
    for i in range(n):
        kind,source = i%5,list(whole)[i%len(whole)]; data = whole[source]; suffix = source[-4:]
        if kind==0: data = data[:int(rng.integers(0, len(data)*.9))]
        if kind==1: b = bytearray(data); [b.__setitem__(int(j), b[int(j)]^255) for j in rng.integers(0, len(b), 40)]; data = bytes(b)
        if kind==2: data = b''
        if kind==3: data = [b'<!doctype html><p>403', b'PK\x03\x04'+bytes(200), b'\x80\x04\x95cos\nsystem\n', rng.bytes(300)][i%4]
        if kind==4: data = bomb(data) if suffix=='.png' else data[:int(rng.integers(2,200))]
        (path/f"{odd[i%len(odd)]} {i}{suffix}").write_bytes(data)
    return len(whole)

def test_two_thousand_damaged_files(tmp_path):
    "No crash; each is kept or reported once with its reason; the good ones are all kept"
    src = tmp_path/'in'; src.mkdir(); good = damaged(src)
    r = build_dataset(src, tmp_path/'out', size=48, screens=None)
    why = refusals(tmp_path/'out'); files = {p.name for p in src.iterdir()}
    kept = {f['source'] for f in read_metadata(tmp_path/'out')}
    assert not kept&set(why) and len(kept)+len(why)==len(files)==2000+good
    assert sum(r.refused.values())==len(why)
    seen = {k for k in why if why[k]=='near-duplicate'}|kept   # flipped bits may leave a picture, then a near-duplicate
    assert {f'whole{i}.{s}' for i in range(8) for s in ('png','jpg')} <= seen
    assert set(r.refused)<={'cannot be read','not a picture','empty file','too large','near-duplicate','no colour','too complex','too narrow','too small'}
    assert r.refused['empty file']>=400 and r.refused['too large']>=100
    print(f'{len(files)} files:', r)

def test_locked_files_and_folders(tmp_path):
    if os.name!='posix' or os.geteuid()==0: pytest.skip('everything is readable to this user')
    for i in range(3): save(picture(i), tmp_path/'in'/f'{i}.png')
    (tmp_path/'in'/'0.png').chmod(0)
    save(picture(7), tmp_path/'in'/'locked'/'7.png'); (tmp_path/'in'/'locked').chmod(0)
    try: r = build_dataset(tmp_path/'in', tmp_path/'out', size=48)
    finally: (tmp_path/'in'/'locked').chmod(0o755)
    assert r.kept==2 and r.refused=={'no permission':2}

@pytest.mark.parametrize('after', [0,3,17])
def test_a_full_disk(scans, whole, tmp_path, monkeypatch, after):
    "A clear error, no picture under a final name; with room again the same call finishes"
    write,left = Path.write_bytes,[after]
    def full(self, data):
        left[0] -= 1
        if left[0]<0: write(self, data[:10]); raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, data)
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space left'): build_dataset(scans, tmp_path/'out', size=48)
    monkeypatch.undo()
    assert not [p for p in (tmp_path/'out').rglob('*') if p.is_file() and '.work' not in p.parts and p.name!='dataset.json']
    build_dataset(scans, tmp_path/'out', size=48)
    assert contents(tmp_path/'out')==contents(whole)

def test_a_full_ledger(scans, tmp_path, monkeypatch):
    "SQLite's own error becomes an OSError that names the file"
    import manga_colorize.dataset.build as module
    class Small(module.Ledger):
        def __init__(self, path): super().__init__(path); self.db.execute('commit'); self.db.execute('pragma max_page_count=4'); self.db.execute('begin')
    monkeypatch.setattr(module, 'Ledger', Small)
    with pytest.raises(OSError, match='ledger.sqlite.*full'): build_dataset(scans, tmp_path/'out', size=48)
    monkeypatch.undo()
    assert build_dataset(scans, tmp_path/'out', size=48).kept==30

class Many:
    "A source of many pictures, few of them good"
    endless,path = False,None
    def __init__(self, n): self.n = n
    def recipe(self): return dict(kind='many', n=self.n)
    def __iter__(self): return ((f'scan-{i:07d}',dict(tags=['1girl','solo'])) for i in range(self.n))
    def name(self, key): return key
    def load(self, key, size):
        if int(key[5:])%200: raise Refused('too small')
        return picture(int(key[5:]), 32, 32),{}

def test_memory_does_not_grow_with_the_input(tmp_path):
    "Peak of Python's own memory, twenty times the input"
    peaks = []
    for n in (400,8000):
        tracemalloc.start(); build_dataset(Many(n), tmp_path/str(n), size=32); peaks.append(tracemalloc.get_traced_memory()[1]); tracemalloc.stop()
    print('peak MB:', [round(p/2**20,2) for p in peaks])
    assert peaks[1]<peaks[0]+2*2**20
