"Sources: any file name, lazy and repeatable listing, locked and vanishing folders, URLs, a World's cast"
import os,pickle,shutil,sys,tempfile,tracemalloc
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np,pytest
from fixtures import bombs,damaged,encode,picture,strangers,whole_files
from manga_colorize.dataset.reading import Refused
from manga_colorize.dataset.sources import Drawn,Folder,file_key,key_file,safe_name
from manga_colorize.world.artist import World

POSIX = os.name=='posix'
def write(path, data=b''): path.parent.mkdir(parents=True, exist_ok=True); path.write_bytes(data)
def keys(source): return [k for k,_ in source]
def why(source, key):
    try: source.load(key, 32); return 'read'
    except Refused as e: return str(e)

@contextmanager
def as_nobody():
    "Locks do not stop the administrator: become a user with no rights for a while"
    if not POSIX or sys.platform=='darwin' and os.geteuid()==0: pytest.skip('cannot become another user here')
    root = os.geteuid()==0; d = Path(tempfile.mkdtemp()); os.chmod(d, 0o755)
    if root: os.chown(d, 65534, 65534); os.seteuid(65534)
    try: yield d
    finally:
        for f,_,_ in os.walk(d): os.chmod(f, 0o755)
        if root: os.seteuid(0)
        shutil.rmtree(d, ignore_errors=True)

# --- names

odd = ['a b.png',' .png','漫画.png','😀 (1).PNG','a\nb.jpg','100%.png','%41.png','-rf.png',"o'b\"q.png",'x;y&z.webp','a::b.png','ü.png','u\u0308.png','~.png','a.PNG.png','con.png'] if POSIX else ['a b.png','漫画.png','100%.png']

def test_odd_names_are_found_named_and_read(tmp_path):
    for i,n in enumerate(odd): write(tmp_path/n, encode(picture(i,40,40),'PNG'))
    f = Folder(tmp_path); got = keys(f)
    assert sorted(got)==sorted(odd) and got==sorted(got)
    for i,n in enumerate(odd): np.testing.assert_array_equal(f.load(n,16)[0], picture(i,40,40))
    names = [f.name(k) for k in got]
    assert len({n.lower() for n in names})==len(odd) and all(set(n)<=set('abcdefghijklmnopqrstuvwxyz0123456789-') and len(n)<64 for n in names)

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='names are text on this system')
def test_undecodable_names(tmp_path):
    raw = [b'caf\xe9.png',b'caf%E9.png',b'\xff\xfe.jpg',b'd\xe9/1.png',b'./x\x80.png'[2:]]
    for i,n in enumerate(raw):
        os.makedirs(os.path.dirname(os.fsencode(tmp_path)+b'/'+n), exist_ok=True); open(os.fsencode(tmp_path)+b'/'+n,'wb').write(encode(picture(i,40,40),'PNG'))
    f = Folder(tmp_path); got = keys(f)
    assert len(set(got))==5 and all(k.encode() and f.name(k).isascii() for k in got) and len({f.name(k) for k in got})==5
    assert {os.fsencode(key_file(k)) for k in got}==set(raw) and all(why(f,k)=='read' for k in got)

@pytest.mark.parametrize('path', ['a.png','%','./%','caf\udce9.png','\udcff/\udc80.png','a\n.png','漫/画.png'])
def test_keys_lead_back(path):
    key = file_key(path); key.encode()
    if not path.startswith('./'): assert key_file(key)==path

def test_names_are_many():
    names = {safe_name(f'{i}/漫.png') for i in range(200_000)}
    assert len(names)==200_000

# --- listing

def test_order_is_the_same_and_depth_first(tmp_path):
    for n in ('b.png','a/2.png','a/1.png','a/z/1.png','A.png','c/1.png','.hidden.png','.git/x.png','notes.txt','d/.DS_Store','a/b.jpeg.txt'): write(tmp_path/n)
    f = Folder(str(tmp_path))
    assert keys(f)==['A.png','b.png','a/1.png','a/2.png','a/z/1.png','c/1.png']==keys(f)
    assert [facts for _,facts in f]==[{}]*6
    assert keys(Folder(tmp_path, suffixes={'.txt'}))==['notes.txt','a/b.jpeg.txt']

def test_deep_folders(tmp_path):
    d = tmp_path
    for _ in range(300): d = d/'d'
    try: d.mkdir(parents=True)
    except OSError: pytest.skip('no such depth here')
    (d/'x.png').touch()
    assert len(keys(Folder(tmp_path)))==1

@pytest.mark.skipif(not POSIX, reason='no pipes or links')
def test_pipes_links_and_circles(tmp_path):
    write(tmp_path/'in'/'a.png', encode(picture(),'PNG')); d = tmp_path/'in'
    os.mkfifo(d/'pipe.png'); (d/'circle').symlink_to(d); (d/'up').symlink_to('..'); (d/'dir.png').mkdir(); write(d/'dir.png'/'b.png')
    (d/'link.png').symlink_to('a.png'); (d/'broken.png').symlink_to('nowhere'); (d/'self.png').symlink_to('self.png'); (d/'folder.png').symlink_to(tmp_path)
    f = Folder(d)
    assert keys(f)==['a.png','broken.png','folder.png','link.png','self.png','dir.png/b.png']
    assert [why(f,k) for k in keys(f)]==['read','vanished','not a picture','read','vanished','empty file']

def test_locked_files_and_folders_are_reported_once():
    with as_nobody() as d:
        for n in ('a.png','locked.png','shut/b.png','shut/deeper/c.png','open/d.png'): write(d/n, encode(picture(),'PNG'))
        os.chmod(d/'locked.png', 0); os.chmod(d/'shut', 0)
        f = Folder(d)
        assert {k:why(f,k) for k in keys(f)}=={'a.png':'read','locked.png':'no permission','open/d.png':'read','shut/':'no permission'}
        os.chmod(d, 0o300)
        assert {k:why(f,k) for k in keys(f)}=={'/':'no permission'}

def test_a_folder_that_vanishes_on_the_way(tmp_path):
    for n in ('a/1.png','b/1.png','c/1.png'): write(tmp_path/n, encode(picture(),'PNG'))
    f = Folder(tmp_path); it = iter(f); got = [next(it)[0]]
    shutil.rmtree(tmp_path/'b'); got += [k for k,_ in it]
    assert got==['a/1.png','b/','c/1.png'] and why(f,'b/')=='vanished'

def test_listing_holds_one_directory(tmp_path):
    "Memory for listing does not grow with the number of directories"
    def once(f, m):
        tracemalloc.start(); n = sum(1 for _ in f); size = tracemalloc.get_traced_memory()[1]; tracemalloc.stop(); assert n==m
        return size
    def peak(n):
        for i in range(n):
            d = tmp_path/str(n)/f'{i:04d}'; d.mkdir(parents=True)
            for k in range(20): (d/f'{k:04d} a name of some length.png').touch()
        return min(once(Folder(tmp_path/str(n)), 20*n) for _ in range(3)) # other threads allocate too
    a,b = peak(20),peak(400); print(f'{a} bytes for 400 files, {b} for 8,000')
    assert b<a+400*200

def test_missing(tmp_path):
    write(tmp_path/'a.png')
    for bad in (tmp_path/'no',tmp_path/'a.png',''):
        with pytest.raises(ValueError, match='expected a folder'): Folder(bad) if bad!='' else Folder(tmp_path/'no'/'')
    assert keys(Folder((tmp_path/'void').mkdir() or tmp_path/'void'))==[]

def test_recipe_and_pickle(tmp_path):
    write(tmp_path/'my pages'/'a.png', encode(picture(),'PNG'))
    f = Folder(tmp_path/'my pages'/'..'/'my pages'); g = pickle.loads(pickle.dumps(f))
    assert f.recipe()==dict(kind='folder', folder='my pages', at=f.recipe()['at'])==g.recipe() and keys(g)==['a.png'] and not f.endless

def _load(source, key): return source.load(key,32)[0].sum()
def test_other_processes(tmp_path):
    write(tmp_path/'a.png', encode(picture(),'PNG')); jobs = [(Folder(tmp_path),'a.png'),(Drawn(World(seed=2),cast=3),'illustration-000001')]
    with get_context('spawn').Pool(1) as pool: assert pool.starmap(_load, jobs)==[_load(*j) for j in jobs]

# --- URLs

@pytest.fixture
def cloud(tmp_path):
    from fsspec import filesystem
    fs = filesystem('memory'); root = f'/bucket/{tmp_path.name}'
    for n in ('b.png','a/2.png','a/1.png','a/z/漫 画.png','.hidden.png','.git/x.png','notes.txt'):
        write(tmp_path/n, encode(picture(3,40,40),'PNG')); fs.pipe(f'{root}/{n}', (tmp_path/n).read_bytes())
    yield fs,root,tmp_path
    fs.rm('/bucket', recursive=True)

def test_urls_give_what_folders_give(cloud):
    fs,root,here = cloud
    for url in (f'memory:/{root}',f'memory:/{root}/'):
        f = Folder(url)
        assert keys(f)==keys(Folder(here)) and f.recipe()==dict(kind='folder', folder=here.name, at=f.recipe()['at'])
        for k in keys(f): np.testing.assert_array_equal(f.load(k,32)[0], picture(3,40,40))
    assert not isinstance(f.path,Path) and keys(pickle.loads(pickle.dumps(f)))==keys(f)
    fs.pipe(f'{root}/empty.png', b''); assert why(f,'gone.png')=='vanished' and why(f,'empty.png')=='empty file'

def test_local_urls(tmp_path):
    write(tmp_path/'in'/'a b.png', encode(picture(),'PNG'))
    f = Folder((tmp_path/'in').as_uri()); assert isinstance(f.path,Path) and keys(f)==['a b.png'] and why(f,'a b.png')=='read'

def test_bad_urls():
    for url in ('nosuch://x','memory://not there'):
        with pytest.raises(ValueError, match='expected'): Folder(url)

def test_colons_are_no_url(tmp_path):
    if not POSIX: pytest.skip('no such names')
    write(tmp_path/'a::b:c'/'x.png', encode(picture(),'PNG')); assert keys(Folder(tmp_path/'a::b:c'))==['x.png']==keys(Folder(str(tmp_path/'a::b:c')))

def test_a_lost_network_is_not_the_pictures_fault(cloud, monkeypatch):
    fs,root,_ = cloud; f = Folder(f'memory:/{root}')
    def lost(*args, **kwargs): raise ConnectionResetError(104, 'lost')
    monkeypatch.setattr(type(fs), 'open', lost)
    with pytest.raises(ConnectionResetError): f.load('b.png', 32)
    monkeypatch.setattr(type(fs), 'ls', lost)
    with pytest.raises(ConnectionResetError): keys(f)

# --- everything bad at once

def test_two_thousand_bad_files_in_a_folder(tmp_path):
    "Each once, with a reason, and every good one read"
    good = {f'good/{n}':d for n,d in whole_files().items()}
    bad = {f'{int(n[:5])%7} {odd[int(n[:5])%len(odd)][:4].strip() or "x"}/{n}':d for n,d in damaged(2000, seed=3)}
    bad |= {f'odd/{n}':d for n,d in (bombs()|strangers()|{'empty.png':b''}).items()}
    for n,d in (good|bad).items(): write(tmp_path/n, d)
    f = Folder(tmp_path); got = keys(f)
    assert len(got)==len(set(got))==len(good)+len(bad) and set(got)==set(good)|set(bad)
    reasons = {k:why(f,k) for k in got}; print(dict(Counter(reasons.values())))
    assert all(reasons[k]=='read' for k in good)
    assert set(reasons.values())=={'read','cannot be read','not a picture','too large','empty file'}
    assert len({f.name(k) for k in got})==len(got)

# --- World

@dataclass
class Drawing: color:object; tags:tuple=('1girl',); characters:tuple=('mia',); style:str='plain'
@dataclass
class FakeWorld:
    seed:int = 0
    def illustration(self, i, size=256): return Drawing(picture(i,size,size))
    def scene(self, i, size=256): return Drawing(picture(1000+i,size,size), ('scene',), (), 'scene')

def test_drawn_is_endless_and_repeatable():
    d = Drawn(FakeWorld(), seed=4); a = [k for k,_ in islice(d,50)]
    assert d.endless and a==[k for k,_ in islice(Drawn(FakeWorld(),seed=4),50)]!=[k for k,_ in islice(Drawn(FakeWorld(),seed=5),50)]
    assert [int(k.split('-')[1]) for k in a]==list(range(50)) and 10<sum(k.startswith('scene') for k in a)<40
    assert [k for k,_ in islice(Drawn(FakeWorld(),scenes=0.),2)]==['illustration-000000','illustration-000001']

def test_drawn_keeps_its_old_order():
    "Data sets made before have these names"
    assert [k for k,_ in islice(Drawn(FakeWorld()),6)]==[f"{'scene' if np.random.default_rng([0,i]).random()<.5 else 'illustration'}-{i:06d}" for i in range(6)]
    color,facts = Drawn(FakeWorld()).load('scene-000007', 32)
    np.testing.assert_array_equal(color, picture(1007,32,32)); assert facts=={'tags':['scene'],'characters':[],'style':'scene'}

def test_a_cast_recurs():
    d = Drawn(World(seed=1), scenes=0., cast=3); seen = Counter(c for k,_ in islice(d,12) for c in d.load(k,32)[1]['characters'])
    assert set(seen)<={0,1,2} and max(seen.values())>1
    np.testing.assert_array_equal(d.load('illustration-000005',48)[0], World(seed=1).illustration(5,size=48,cast=World(seed=1).cast(3)).color)
    assert d.recipe()=={'kind':'world','world':1,'scenes':0.,'cast':3,'seed':0}

@pytest.mark.parametrize('kwargs', [dict(scenes=-.1),dict(scenes=2),dict(cast=0),dict(cast=-3)])
def test_wrong_worlds(kwargs):
    with pytest.raises(ValueError, match='expected'): Drawn(FakeWorld(), **kwargs)
